"""Collisions resolved: `tessera.codes.collisions.resolve` beside the same rule written plainly.

The peer, `plain_collisions`, is what one writes who knows Python well: a dictionary of groups, a set of taken IDs,
NumPy for the distances of an item. Both get the same arrays in memory and must return the same codes. IDs are of the
published form, 4 levels of 256 codes; a share of the items has the codes of another one, more often of a popular one.

The limit is that of a program which sorts the IDs once, as NumPy sorts 64-bit integers, and computes each mover's
distances to one level once, at the measured matrix rate.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from instruments import CODES, LEVELS, distinct_ids
from plain_collisions import resolved_plainly
from side_by_side import GIB, Case, Growth, alternate, in_own_process, matrix_rate, median_seconds, report

from tessera.codes.collisions import Paths, packed, resolve
from tessera.runtime import keep_freed_memory

WIDTH = 32
SHARES = (0.5, 0.05)
RUNS = 5


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Let the plain rule do the largest crowd too: minutes.")] = False,
    items: Annotated[tuple[int, int], typer.Option(help="How many items; the first number stands.")] = (50_000, 6_250),
    most: Annotated[int, typer.Option(help="How many items to measure memory with.")] = 1_000_000,
) -> None:
    """Measure both at each number of items, and ours alone at the most."""
    keep_freed_memory()  # as every stage does
    rate = matrix_rate()
    cases = [compared(crowd(count, share), share, rate, runs=RUNS) for count in items for share in SHARES]
    growth = []
    for share in SHARES:
        if full:
            cases.append(compared(crowd(most, share), share, rate, runs=1))
        counts = sorted({most // 100, most // 10, most})
        spent = [in_own_process(seconds_of, count, share) for count in counts]
        growth.append(Growth(f"collisions, {share:.0%} of items", "items", counts, [each.result for each in spent]))
        largest = f"{most:,} items, {share:.0%} colliding, ours"
        facts = {f"{largest}, seconds": spent[-1].result, f"{largest}, peak GiB": spent[-1].peak_bytes / GIB}
        cases[0] = cases[0]._replace(facts={**cases[0].facts, **facts})
    report("collisions", cases, growth=growth, to=to)


def crowd(items: int, share: float) -> Paths:
    """Return paths of items, of which a share has the codes of some other item."""
    draw = np.random.default_rng(0)
    surplus = round(items * share)
    ids = distinct_ids(items - surplus, draw=draw)
    popularity = 1 / np.sqrt(np.arange(1, len(ids) + 1))
    repeated = ids[draw.choice(len(ids), surplus, p=popularity / popularity.sum())]
    codes = draw.permutation(np.concatenate([ids, repeated])).astype(np.int64)
    codebooks = draw.normal(size=(LEVELS, CODES, WIDTH)).astype(np.float32)
    places = codebooks[-2][codes[:, -2]] + codebooks[-1][codes[:, -1]]
    return Paths(codes, places + draw.normal(size=places.shape).astype(np.float32), codebooks)


def names_of(count: int) -> list[str]:
    """Return names for items; only an error shows them."""
    return [str(item) for item in range(count)]


def compared(paths: Paths, share: float, rate: float, *, runs: int) -> Case:
    """Return both on paths; raise where their codes differ."""
    count = len(paths.codes)
    names = names_of(count)
    both = alternate(
        peer=lambda: resolved_plainly(paths),
        ours=lambda: resolve(paths, rule="reassign", names=names),
        runs=runs,
    )
    assert not both.peers_result.homeless
    assert np.array_equal(both.our_result, np.array(both.peers_result.codes)), "the two gave items other codes"
    places = packed(paths.codes, size=CODES)
    movers = count - len(np.unique(places))
    least = median_seconds(lambda: np.sort(places), runs=RUNS) + 2 * movers * CODES * WIDTH / rate
    moved = int((both.our_result != paths.codes).any(axis=1).sum())
    name = f"{count:,} items, {share:.0%} colliding"
    return Case(name, "items/s", count / both.peer, count / both.ours, count / least, {"items moved": f"{moved:,}"})


def seconds_of(items: int, share: float) -> float:
    """Return the seconds that tessera takes for a crowd, without those of making it."""
    paths = crowd(items, share)
    names = names_of(items)
    return median_seconds(lambda: resolve(paths, rule="reassign", names=names), runs=1)


if __name__ == "__main__":
    typer.run(main)
