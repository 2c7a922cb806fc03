"""How good rankings are: where each user's target stands, and what follows from that alone.

Every user of a split has one target, and the whole catalogue is ranked: no sampled negatives. A rank counts from 1;
that of a target which is not in the list is infinity in an array (null in a table), which makes a measure one line.
Letters: N users, K cut-off, R resamples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from tessera.errors import ParamsError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]

#: A measure's lowest and highest value in so many per cent of the resamples.
Interval = tuple[float, float]


def ranks_in(lists: Integers, targets: Integers) -> Floats:
    """Return the rank (N,) of each target in its list of items, which stand in a row of lists (N, K), best first."""
    is_target = lists == targets[:, None]
    return np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1.0, math.inf)


def hits(ranks: Floats, *, k: int) -> Floats:
    """Return 1 for each target among the first k, else 0 (N,); the mean is HR@K."""
    return (ranks <= k).astype(np.float64)


def discounted_hits(ranks: Floats, *, k: int) -> Floats:
    """Return 1 / log2(rank + 1) for each target among the first k, else 0 (N,); the mean is NDCG@K.

    With one target the ideal ranking gains 1, so that the discounted gain (Jarvelin and Kekalainen 2002) is already
    normalised. Rank 3 gives 1 / log2(4) = 0.5.
    """
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)


def reciprocal_ranks(ranks: Floats) -> Floats:
    """Return 1 / rank for each target, 0 for one that is not in the list (N,); the mean is MRR."""
    return 1 / ranks


#: What each measure makes of ranks (N,); the measure is the mean over users.
MEASURES: Final[dict[str, Callable[[Floats], Floats]]] = {
    "hr@1": partial(hits, k=1),
    "hr@5": partial(hits, k=5),
    "hr@10": partial(hits, k=10),
    "ndcg@5": partial(discounted_hits, k=5),
    "ndcg@10": partial(discounted_hits, k=10),
    "mrr": reciprocal_ranks,
}

_SLICE_MEASURES: Final = ("hr@10", "ndcg@10")


def measure(ranks: Floats) -> dict[str, float]:
    """Return every measure of ranks (N,), N at least 1."""
    return {name: float(gains(ranks).mean()) for name, gains in MEASURES.items()}


def bootstrap_intervals(
    ranks: Floats, *, confidence: float, resamples: int, generator: np.random.Generator
) -> dict[str, Interval]:
    """Return the percentile interval of every measure over resamples of users with replacement (Efron 1979).

    Measures depend on users only through how many have each rank, and in a resample these counts are multinomial.
    So counts are drawn instead of users: the same distribution, in R x (distinct ranks) numbers whatever N is.
    """
    values, counts = np.unique(ranks, return_counts=True)
    drawn = generator.multinomial(len(ranks), counts / len(ranks), size=resamples)  # (R, distinct ranks)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    intervals = {}
    for name, gains in MEASURES.items():
        low, high = np.quantile(drawn @ gains(values) / len(ranks), tails)
        intervals[name] = (float(low), float(high))
    return intervals


def ranks_by_ranking(per_user: pl.DataFrame) -> dict[str, dict[str, Floats]]:
    """Return for each split and each ranking the ranks (N,) that per_user holds, infinity where it holds null."""
    ranks: dict[str, dict[str, Floats]] = {}
    for (split, ranking), rows in per_user.partition_by("split", "ranking", as_dict=True).items():
        ranks.setdefault(split, {})[ranking] = _array(rows)
    return ranks


def ranks_by_warmth(per_user: pl.DataFrame) -> dict[str, dict[str, Floats]]:
    """Return the ranks (N,) of each test ranking apart: `cold` where training never saw the target, else `warm`.

    per_user has the columns split, ranking, rank and target_frequency. Where no target is cold, or all are, there is
    nothing to tell apart and nothing is returned.
    """
    test = per_user.filter(pl.col("split") == "test")
    is_cold = pl.col("target_frequency") == 0
    parts = {"cold": test.filter(is_cold), "warm": test.filter(~is_cold)}
    if any(rows.is_empty() for rows in parts.values()):
        return {}
    return {name: ranks_by_ranking(rows)["test"] for name, rows in parts.items()}


def measure_slices(per_user: pl.DataFrame, *, bounds: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return HR@10 and NDCG@10 for each part of the users, as records split, ranking, kind, slice, users, measures.

    bounds gives for each kind of slice, a column of per_user such as `target_frequency`, where slices begin: [1, 5]
    parts users into "0", "1-4" and "5+". A slice without users has no record.

    Raises ParamsError where bounds do not rise.
    """
    return [
        {"split": split, "ranking": ranking, "kind": kind, **record}
        for (split, ranking), rows in per_user.partition_by("split", "ranking", as_dict=True).items()
        for kind, begins in bounds.items()
        for record in _sliced(_array(rows), rows.get_column(kind).to_numpy(), begins, names=_slice_names(kind, begins))
    ]


def _sliced(
    ranks: Floats, values: npt.NDArray[np.uint32], begins: Sequence[int], *, names: list[str]
) -> list[dict[str, Any]]:
    """Return a record of the users (N,) of each slice that has any."""
    places = np.searchsorted(begins, values, side="right")  # (N,)
    parts = [(name, ranks[places == place]) for place, name in enumerate(names)]
    return [
        {"slice": name, "users": len(part), **{each: float(MEASURES[each](part).mean()) for each in _SLICE_MEASURES}}
        for name, part in parts
        if len(part)
    ]


def measure_cuts(ranks: Mapping[str, Floats], *, longest: int) -> list[dict[str, Any]]:
    """Return HR@K and NDCG@K of each ranking for K from 1 to longest, as records ranking, k, hr, ndcg."""
    return [
        {"ranking": name, "k": k, "hr": float(hits(each, k=k).mean()), "ndcg": float(discounted_hits(each, k=k).mean())}
        for name, each in ranks.items()
        for k in range(1, longest + 1)
    ]


def _slice_names(kind: str, begins: Sequence[int]) -> list[str]:
    edges = [0, *begins]
    if any(low >= high for low, high in pairwise(edges)):
        raise ParamsError(f"slices of {kind}: expected rising bounds from 1 up, found {list(begins)}")
    names = [f"{low}" if low == high - 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return [*names, f"{edges[-1]}+"]


def _array(rows: pl.DataFrame) -> Floats:
    return rows.get_column("rank").cast(pl.Float64).fill_null(math.inf).to_numpy()
