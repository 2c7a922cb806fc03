"""How strongly each item calls for each other: what rankings by counting and by least squares both recommend by.

Letters: S histories, B histories of a block, N items, E items that something in a block's histories calls for.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from tessera.recommender.corpus import Histories
from tessera.recommender.lists import Floats, Integers, Lists, best_entries, joined

#: A sparse matrix of SciPy.
Sparse = Any

#: Strengths that are added up at one time: some 600 megabytes.
AT_ONCE: Final = 2**23


def rank_by_strength(
    strengths: Sparse,
    found: Histories,
    *,
    recency: float,
    length: int,
    seen: Histories | None = None,
    progress: Callable[[list[slice]], Iterable[slice]] = iter,
) -> Lists:
    """Return for each history of found the `length` items that it calls for most by strengths (N, N).

    An item's strength is the sum of its column over the items of the history, each step back from the last at
    `recency` of the step before; its score is the logarithm of its share in the strength of all items above 0. What
    nothing calls for is not ranked. Only what is called for is looked at, which of many items are few. The other
    arguments are those of a `HistoryRanker`.
    """
    length = min(length, strengths.shape[0])
    lists = []
    for block in progress(_blocks(strengths, found)):
        asked = found.block(block)
        row, item, score = _log_shares(strengths, asked, recency=recency)
        if seen is not None:
            is_new = ~_is_seen(seen.block(block), row, item)
            row, item, score = row[is_new], item[is_new], score[is_new]
        is_high = score >= _lowest(row, score, rows=len(asked.lengths), length=length)[row]
        row, item, score = row[is_high], item[is_high], score[is_high]
        lists.append(best_entries(row, item, score, rows=len(asked.lengths), length=length))
    return joined(lists, length=length)


def _lowest(row: Integers, score: Floats, *, rows: int, length: int) -> Floats:
    """Return the `length`-th highest score (E,) of each row 0..rows-1, in whose order row is; -inf of fewer scores."""
    parts = np.split(score, np.cumsum(np.bincount(row, minlength=rows))[:-1])
    return np.array([np.partition(part, -length)[-length] if len(part) > length else -np.inf for part in parts])


def _blocks(strengths: Sparse, found: Histories) -> list[slice]:
    """Return blocks of histories that add up some AT_ONCE strengths each."""
    added = np.append(0, np.cumsum(np.diff(strengths.indptr)[found.before], dtype=np.int64))[np.cumsum(found.lengths)]
    starts = np.flatnonzero(np.diff(added // AT_ONCE, prepend=-1)).tolist()
    return [slice(start, end) for start, end in pairwise([*starts, len(added)])]


def _log_shares(strengths: Sparse, found: Histories, *, recency: float) -> tuple[Integers, Integers, Floats]:
    """Return the places (E,) among found, the items and their log-shares, of all that the histories call for."""
    ends = np.cumsum(found.lengths)
    back = np.repeat(ends, found.lengths) - 1 - np.arange(ends[-1] if len(ends) else 0)
    history = sparse.csr_array(
        (recency ** back.astype(np.float64), found.before, np.concatenate([[0], ends])),
        shape=(len(found.lengths), strengths.shape[0]),
    )
    called = (history @ strengths).tocoo()
    is_called = called.data > 0
    row, item = (places[is_called].astype(np.int64) for places in called.coords)
    strength = called.data[is_called]
    return row, item, np.log(strength / np.bincount(row, strength, minlength=len(ends))[row])


def _is_seen(seen: Histories, row: Integers, item: Integers) -> NDArray[np.bool_]:
    """Return which items (E,) are in the history at their place (E,)."""
    width = 1 + max(int(seen.items.max(initial=0)), int(item.max(initial=0)))
    had = np.repeat(np.arange(len(seen.lengths)), seen.lengths) * width + seen.before
    return np.isin(row * width + item, had)


def strengths_table(strengths: Sparse) -> pl.DataFrame:
    """Return strengths (N, N) as a table of STRENGTHS, sorted: a row for each item and each that it calls for."""
    found = strengths.tocoo()
    item, following = found.coords
    columns = {"item": item.astype(np.uint32), "next": following.astype(np.uint32), "strength": found.data}
    return pl.DataFrame(columns).sort("item", "next")


def strengths_in(table: pl.DataFrame, *, items: int) -> Sparse:
    """Return the strengths (N, N) that a table of STRENGTHS holds, N = items."""
    places = (table["item"].to_numpy(), table["next"].to_numpy())
    return sparse.csr_array((table["strength"].to_numpy(), places), shape=(items, items))
