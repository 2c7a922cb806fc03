"""How the time and the memory of each stage grow with the catalogue, up to a million items on one machine.

Drawn data in the form of a shop's own folder: so many items and users, twenty interactions a user (every item is taken
six times and more, the rest follow Zipf's law), and a text and a picture vector of 768 numbers an item. Stages run as
`dvc.yaml` has them, each a process of its own, with the published sizes but for what only lengthens a run: one start of
k-means, and one pass of the cross-modal quantizer over the items. One pass leaves most items with the same codes, so
that those which the later stages see are the residual k-means's, measured too. The T5 is not trained: `train_t5` is
stopped after 210 seconds, since what it holds is then there, and ranking takes a T5 with the weights that a training
starts from and a sample of users, for all of whom it would do the same again. What follows the ranking has drawn lists
of all users, some of them with the target.

Time is that of the whole process, memory its largest resident set, as each stage's record tells them. A process starts
with the resident set of the one that started it, which is why this one hands all that takes memory to others. What is
mapped from files counts, though the system can take it back.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
import polars as pl
import psutil
import typer
from embeddings import Embeddings
from numpy.typing import NDArray
from ruamel.yaml import YAML
from side_by_side import GIB, in_own_process, machine, with_told

from tessera.artifacts import read_json, read_table, table_writer, whole_folder, write_json, write_table
from tessera.compose import composed
from tessera.params import load_params
from tessera.recommender.corpus import codes_by_modality
from tessera.recommender.lists import rankings_table
from tessera.recommender.vocabulary import Vocabulary
from tessera.records import write_record
from tessera.schemas import CORPUS, IDS, INTERACTIONS, RANKINGS, Schema

ROOT: Final = Path(__file__).parents[1]
STAGES: Final = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
BEGIN, END = "<!-- growth: written by benchmarks/scale.py -->", "<!-- end of growth -->"

SIZES: Final = (100_000, 1_000_000)
WIDTH: Final = 768
CATEGORIES: Final = 2_000

#: Interactions a user has at least and on average; and how often every item is taken, before any is taken more often.
SHORTEST, AVERAGE, EACH = 5, 20, 6
ZIPF: Final = 0.8

#: Rows drawn at once, and how far apart the times of interactions are drawn, in seconds.
ROWS: Final = 1_000_000
VECTORS: Final = 50_000
TEN_YEARS: Final = 10 * 365 * 86_400

#: What the pipeline is run with.
OVERRIDES: Final = (
    "dataset=folder",
    "encoder=precomputed",
    "scale=paper",
    "filter.required=[]",
    "pseudo.initialisations=1",
    "quant.epochs=1",
    "quant.batch_size=2048",
    'corpus.tasks=["history text -> text", "history image -> image"]',
    "t5.batch_size=256",
)

#: The stage whose codes the later ones see, and how.
QUANTIZER: Final = "train_quantizer"
RESIDUAL_KMEANS: Final = "system=rkmeans"

#: The stages that run to their end, in their order, and the one that is stopped.
BEFORE: Final = (
    "download_reviews",
    "fetch_images",
    "filter_reviews",
    "embed_text",
    "embed_images",
    "distill_images",
    "embed_collaborative",
    "cluster_items",
    QUANTIZER,
    "resolve_collisions",
    "build_corpus",
)
STOPPED: Final = "train_t5"
RANKING: Final = "rank_items"
AFTER: Final = ("rank_collaborative", "evaluate", "write_report")

#: Drawn lists: how many hold the target, how far apart their items are, and of how many users they are drawn at once.
FOUND: Final = 0.1
APART: Final = 7_919
USERS: Final = 50_000


class Taken(NamedTuple):
    """What a stage took."""

    seconds: float
    peak_bytes: int


class Run(NamedTuple):
    """What a run of a size took, and what it was over."""

    items: int
    interactions: int
    stages: dict[str, Taken]


def main(
    sizes: Annotated[list[int], typer.Option("--items", help="How many items; once a size.")] = list(SIZES),  # noqa: B006
    users: Annotated[int, typer.Option(help="How many users are ranked for.")] = 1_000,
    seconds: Annotated[int, typer.Option(help="After how long the training is stopped.")] = 210,
    folder: Annotated[Path | None, typer.Option(help="Where everything goes, and stays; else it goes away.")] = None,
    page: Annotated[Path | None, typer.Option(help="The page whose table is to be written.")] = None,
) -> None:
    """Run the stages with so many items, and tell what each took."""
    runs = []
    for items in sizes:
        with tempfile.TemporaryDirectory() as place:
            where = (folder or Path(place)) / f"{items}"
            in_own_process(draw, where, items)
            runs.append(run_all(where, users=users, seconds=seconds))
    told = table(runs)
    print(told)
    if page is not None:
        page.write_text(with_told(page.read_text(), told, begin=BEGIN, end=END))


def draw(folder: Path, items: int) -> None:
    """Write a shop of so many items to folder, unless it is there."""
    generator = np.random.default_rng(0)
    shop = folder / "shop"
    shop.mkdir(parents=True, exist_ok=True)
    for number, modality in enumerate(("text", "image")):
        if not (path := shop / f"{modality}.parquet").is_file():
            write_vectors(path, items, seed=number)
    if not (path := shop / "items.parquet").is_file():
        numbers = pl.Series(np.arange(items))
        pl.select(item=pl.format("I{}", numbers), title=pl.format("Item {}", numbers)).write_parquet(path)
    if not (path := shop / "interactions.parquet").is_file():
        schema: Schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
        with table_writer(path, schema) as write:
            for part in interactions(items, draw=generator):
                write(part)


def write_vectors(path: Path, items: int, *, seed: int) -> None:
    """Write a vector for each of so many items to path."""
    source = Embeddings(width=WIDTH, categories=CATEGORIES, seed=seed)
    with table_writer(path, {"item": pl.String, "vector": pl.Array(pl.Float32, WIDTH)}) as write:
        for start in range(0, items, VECTORS):
            numbers = np.arange(start, min(start + VECTORS, items))
            keys = pl.select(pl.format("I{}", pl.Series(numbers))).to_series()
            write(pl.DataFrame({"item": keys, "vector": source.drawn(len(numbers))}))


def interactions(items: int, *, draw: np.random.Generator) -> Iterator[pl.DataFrame]:
    """Yield the interactions of as many users as items, part by part."""
    lengths = SHORTEST + draw.geometric(1 / (AVERAGE - SHORTEST + 1), items) - 1
    users = np.repeat(np.arange(items), lengths)
    taken = drawn_items(items, len(users), draw=draw)
    for start in range(0, len(users), ROWS):
        rows = slice(start, start + ROWS)
        when = draw.integers(0, TEN_YEARS, len(users[rows]))
        yield pl.select(
            user=pl.format("U{}", pl.Series(users[rows])),
            item=pl.format("I{}", pl.Series(taken[rows])),
            timestamp=pl.Series(when).cast(pl.Int64),
        )


def drawn_items(items: int, count: int, *, draw: np.random.Generator) -> NDArray[np.int64]:
    """Return count items, each EACH times and the rest by Zipf's law, in random order."""
    shares = np.arange(1, items + 1) ** -ZIPF
    rest = np.searchsorted(np.cumsum(shares / shares.sum()), draw.random(count - EACH * items)).clip(max=items - 1)
    return draw.permutation(np.concatenate([np.repeat(np.arange(items), EACH), rest]))


def run_all(folder: Path, *, users: int, seconds: int) -> Run:
    """Run the stages on the shop of folder, and return what each took."""
    shop, run = folder / "shop", folder / "run"
    run.mkdir(exist_ok=True)
    paths = [f"dataset.path={shop}", *(f"{each}.path={shop / each}.parquet" for each in ("text", "image"))]
    write_params(run, *paths)
    taken = {}
    for stage in BEFORE:
        taken[stage] = run_stage(stage, run)
        if stage == QUANTIZER:
            write_params(run, *paths, RESIDUAL_KMEANS)
            taken[f"{stage}, {RESIDUAL_KMEANS}"] = run_stage(stage, run)
    taken[STOPPED] = stopped_stage(STOPPED, run, after=seconds)
    in_own_process(draw_t5, run)
    in_own_process(keep_users, run, users)
    taken[RANKING] = run_stage(RANKING, run)
    in_own_process(draw_lists, run)
    for stage in AFTER:
        taken[stage] = run_stage(stage, run)
    counts = read_json(run / "metrics/filter_reviews.json")
    return Run(counts["items"], counts["interactions"], taken)


def write_params(run: Path, *overrides: str) -> None:
    """Write what the pipeline is run with to run."""
    (run / "params.yaml").write_text(composed(ROOT / "conf", [*OVERRIDES, *overrides]))


def run_stage(stage: str, run: Path) -> Taken:
    """Run a stage in run, and return what its record tells."""
    done = subprocess.run(command(stage), cwd=run, check=False)
    if done.returncode:
        raise SystemExit(f"{stage}: expected status 0, found {done.returncode}")
    record = read_json(run / f"data/{stage}/record.json")
    print(f"{run.parent.name} {stage}: {record['seconds']} s, {record['peak_bytes'] / GIB:.2f} GiB", flush=True)
    return Taken(record["seconds"], record["peak_bytes"])


def stopped_stage(stage: str, run: Path, *, after: float) -> Taken:
    """Run a stage in run for so many seconds at most, and return these and the most memory that it was seen with."""
    start, peak = time.monotonic(), 0
    with subprocess.Popen(command(stage), cwd=run) as process:
        seen = psutil.Process(process.pid)
        while process.poll() is None and time.monotonic() - start < after:
            peak = max(peak, seen.memory_info().rss)
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
        elif process.returncode:
            raise SystemExit(f"{stage}: expected it to train, found status {process.returncode}")
    return Taken(time.monotonic() - start, peak)


def command(stage: str) -> list[str]:
    """Return the command line of a stage, without DVC."""
    _, _, script, *options = shlex.split(STAGES[stage]["cmd"])
    return [sys.executable, str(ROOT / script), *options]


def draw_t5(run: Path) -> None:
    """Write the T5 that a training would start from to run."""
    from tessera.recommender.model import Sizes, new_model, save_model

    params = load_params(run / "params.yaml")
    words = Vocabulary.from_json(read_json(run / "data/build_corpus/vocabulary.json"))
    ids = read_table(run / "data/resolve_collisions/ids.parquet", IDS)
    tokens = words.all_tokens(codes_by_modality(ids, words.modalities))
    sizes = Sizes(**params.t5.model_dump(include=set(Sizes._fields)))
    with whole_folder(run / "data/train_t5/checkpoint") as folder:
        save_model(new_model(words, tokens, sizes, seed=params.seed), folder)
    write_json(run / "data/train_t5/history.json", [])
    write_record(run / "data/train_t5/record.json")


def keep_users(run: Path, users: int) -> None:
    """Leave the samples of the first so many users to be ranked for."""
    for split in ("valid", "test"):
        path = run / f"data/build_corpus/{split}.parquet"
        kept = pl.scan_parquet(path).filter(pl.col("user") < users).collect(engine="streaming")
        write_table(path, kept, CORPUS)


def draw_lists(run: Path) -> None:
    """Write lists for all users to run, as a ranking of all of them would."""
    generator = np.random.default_rng(0)
    length = load_params(run / "params.yaml").decode.beams
    interactions = read_table(run / "data/filter_reviews/interactions.parquet", INTERACTIONS)
    items = interactions["item"].n_unique()
    with table_writer(run / "data/rank_items/rankings.parquet", RANKINGS) as write:
        for split, modality in product(("valid", "test"), ("text", "image")):
            for targets in interactions.filter(split=split).iter_slices(USERS):
                where = generator.integers(0, length, targets.height)
                first = targets["item"].to_numpy().astype(np.int64) - where * APART
                drawn = generator.integers(0, items, targets.height)
                first = np.where(generator.random(targets.height) < FOUND, first, drawn)
                lists = (first[:, None] + APART * np.arange(length)) % items
                scores = -np.sort(generator.exponential(size=lists.shape))
                write(rankings_table(lists, scores, users=targets["user"], split=split, modality=modality))


def table(runs: Sequence[Run]) -> str:
    """Return a Markdown table of what each stage took in each run, and how that grew from the first to the last."""
    heads = [f"{run.items:,} items: s | GiB" for run in runs]
    lines = [f"| stage | {' | '.join(heads)} | time grew by | memory grew by |"]
    lines.append("|---|" + "---:|" * (2 * len(runs) + 2))
    for stage in runs[0].stages:
        taken = [run.stages[stage] for run in runs]
        cells = [f"{each.seconds:.1f} | {each.peak_bytes / GIB:.2f}" for each in taken]
        time_grew = taken[-1].seconds / taken[0].seconds
        memory_grew = taken[-1].peak_bytes / taken[0].peak_bytes
        grew = "stopped" if stage == STOPPED else f"{time_grew:.1f}"
        lines.append(f"| {stage} | {' | '.join(cells)} | {grew} | {memory_grew:.1f} |")
    about = machine()
    counts = " and ".join(f"{run.interactions:,} of {run.items:,} items" for run in runs)
    lines += ["", f"Interactions after the filter: {counts}."]
    lines += [f"Measured on: {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB."]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
