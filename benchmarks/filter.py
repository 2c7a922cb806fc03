"""From a file of raw review lines to k-core tables, beside the loop that everybody writes.

Work: a gzip file of drawn review lines (`drawn_reviews`; drawing is not measured) becomes the interactions of its
5-core: each pair of user and item once, users and items numbered, each user's in order, the last ones held out.

- Ours: what `stages/download_reviews.py` and `stages/filter_reviews.py` do with reviews, through Parquet.
- Peer: `gzip.open`, `json.loads` of each line, a dictionary of pairs, and sets of which users and items leave until
  nothing changes; its interactions are written as tab-separated text. It looks for no malformed line and counts
  nothing, so it does less.
- Limit: the rate at which `isal`, the fastest decompressor measured here, unpacks the file and nothing else is done.
  A gzip stream can only be unpacked from its start, so no number of cores changes that.

Each run has a process of its own, whose start is not measured, and whose peak memory is. Both results must be equal.
"""

import gzip
import hashlib
import json
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import drawn_reviews
import polars as pl
import typer
from isal import igzip
from polars.testing import assert_frame_equal
from side_by_side import GIB, Case, Growth, alternate_apart, in_own_process, report

from tessera.artifacts import read_table, write_table
from tessera.items.amazon import read_reviews
from tessera.items.filtering import counted, dense_interactions, in_order, numbered
from tessera.items.hashing import FNV_OFFSET, FNV_PRIME, SPLITMIX
from tessera.items.splits import leave_one_out
from tessera.runtime import keep_freed_memory
from tessera.schemas import INTERACTIONS, REVIEWS, USERS

K = 5
FULL = 10_000_000

#: The growth is measured with these parts of the lines.
PARTS = (10, 5, 2, 1)
CACHE = Path(tempfile.gettempdir(), "tessera-benchmarks")

MILLISECONDS = 1000
WORD = 2**64

#: Bytes unpacked at once for the limit: as many as stay near the core.
PIECE = 2**20


class Phases(NamedTuple):
    """Seconds of ours."""

    reading: float
    filtering: float


def main(
    *,
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go, as JSON.")] = None,
    full: Annotated[bool, typer.Option("--full", help=f"Take {FULL:,} lines, and run once.")] = False,
    lines: Annotated[int, typer.Option(help="How many review lines there are.")] = 1_000_000,
    runs: Annotated[int, typer.Option(help="How often each side runs.")] = 3,
    growth: Annotated[bool, typer.Option(help="Measure how ours grows up to as many lines, too.")] = True,
    folder: Annotated[Path, typer.Option(help="The cache of drawn files.")] = CACHE,
) -> None:
    """Measure both with so many lines, and ours with fewer."""
    lines, runs = (FULL, 1) if full else (lines, runs)
    case = compare(drawn(folder, lines), lines, runs=runs)
    report("filter", [case], to=to, growth=[grown(folder, lines)] if growth else ())


def compare(raw: Path, lines: int, *, runs: int) -> Case:
    """Return how both fare with the file raw of so many lines; raise AssertionError where their results differ."""
    unpacking, size = unpack(raw)  # first, so that no side reads the file from a disk
    with tempfile.TemporaryDirectory() as folder:
        tables, listing = Path(folder, "ours"), Path(folder, "peer.tsv")
        spent = alternate_apart(
            ours=partial(filter_ours, raw, tables), peer=partial(filter_plainly, raw, listing), runs=runs
        )
        found = pl.read_parquet(tables / "interactions.parquet")
        assert_frame_equal(found, pl.read_csv(listing, separator="\t", has_header=False, schema=INTERACTIONS))
    facts = {
        "lines": float(lines),
        "bytes a line": size / lines,
        "bytes a line, packed": raw.stat().st_size / lines,
        "interactions of the 5-core": float(found.height),
        "seconds, reading": median(each.result.reading for each in spent.ours),
        "seconds, filtering": median(each.result.filtering for each in spent.ours),
        "peak GiB, ours": max(each.peak_bytes for each in spent.ours) / GIB,
        "peak GiB, peer": max(each.peak_bytes for each in spent.peer) / GIB,
    }
    peer, ours = (median(each.seconds for each in side) for side in spent)
    return Case(
        f"{lines:,} lines to the {K}-core",
        "lines/s",
        peer=lines / peer,
        ours=lines / ours,
        limit=lines / unpacking,
        facts=facts,
    )


def grown(folder: Path, most: int) -> Growth:
    """Return how the time of ours grows with the lines, up to most."""
    counts = [most // part for part in PARTS]
    with tempfile.TemporaryDirectory() as place:
        spent = [in_own_process(filter_ours, drawn(folder, lines), Path(place)) for lines in counts]
    return Growth("filter by lines", "lines", [float(lines) for lines in counts], [each.seconds for each in spent])


def drawn(folder: Path, lines: int) -> Path:
    """Return the file of so many lines, drawn unless folder has it."""
    version = hashlib.sha256(Path(drawn_reviews.__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"reviews-{version}-{lines}.json.gz"
    if not path.is_file():
        drawn_reviews.write_reviews(path, lines)
    return path


def filter_ours(raw: Path, folder: Path) -> Phases:
    """Write the tables of the k-core of raw to folder, as the stages do."""
    keep_freed_memory()
    start = time.perf_counter()
    reviews, _ = read_reviews(raw, form="amazon2018", max_malformed=0.0)
    write_table(folder / "reviews.parquet", reviews, REVIEWS)
    del reviews
    middle = time.perf_counter()
    dense = dense_interactions(read_table(folder / "reviews.parquet", REVIEWS), min_rating=None, k=K)
    kept = leave_one_out(in_order(numbered(dense.interactions), ties="hash"))
    write_table(folder / "interactions.parquet", kept.select(list(INTERACTIONS)), INTERACTIONS)
    write_table(folder / "users.parquet", counted(kept, "user"), USERS)
    return Phases(middle - start, time.perf_counter() - middle)


def filter_plainly(raw: Path, to: Path) -> None:
    """Write the interactions of the k-core of raw to a tab-separated file."""
    first: dict[tuple[str, str], tuple[int, int]] = {}
    with gzip.open(raw) as file:
        for row, line in enumerate(file):
            review = json.loads(line)
            pair, when = (review["reviewerID"], review["asin"]), (review["unixReviewTime"], row)
            if pair not in first or when < first[pair]:
                first[pair] = when

    items_of: defaultdict[str, set[str]] = defaultdict(set)
    users_of: defaultdict[str, set[str]] = defaultdict(set)
    for user, item in first:
        items_of[user].add(item)
        users_of[item].add(user)
    while drop_few(items_of, users_of) + drop_few(users_of, items_of):
        pass

    number_of = {item: number for number, item in enumerate(sorted(users_of))}
    hashes = {item: fnv(item) for item in users_of}
    with to.open("w") as out:
        for number, (user, items) in enumerate(sorted(items_of.items())):
            mixed = mix(fnv(user))
            timed = sorted((first[user, item][0], mix(mixed ^ hashes[item]), number_of[item]) for item in items)
            for position, (seconds, _, item_number) in enumerate(timed):
                split = {1: "test", 2: "valid"}.get(len(timed) - position, "train")
                out.write(f"{number}\t{item_number}\t{seconds * MILLISECONDS}\t{position}\t{split}\n")


def drop_few(of: dict[str, set[str]], others: dict[str, set[str]]) -> int:
    """Take those of fewer than K out of both, and return how many there were."""
    few = [key for key, mine in of.items() if len(mine) < K]
    for key in few:
        for other in of.pop(key):
            others[other].discard(key)
    return len(few)


def fnv(key: str) -> int:
    """Return the 64-bit FNV-1a hash of key."""
    state = int(FNV_OFFSET)
    for letter in key.encode():
        state = (state ^ letter) * int(FNV_PRIME) % WORD
    return state


def mix(word: int) -> int:
    """Return SplitMix64's finaliser of word."""
    for shift, factor in SPLITMIX:
        word = (word ^ (word >> shift)) * factor % WORD
    return word


def unpack(path: Path) -> tuple[float, int]:
    """Return the seconds that it takes to unpack path, and how many bytes come of it."""
    start, size = time.perf_counter(), 0
    with igzip.open(path, "rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
    return time.perf_counter() - start, size


if __name__ == "__main__":
    typer.run(main)
