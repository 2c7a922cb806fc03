"""Lists of the best items, out of scores of the whole catalogue: what the systems without semantic IDs share.

Letters: S users, B users of a block, N items, K items of a list.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.recommender.corpus import Histories

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Scores in memory at once: 128 MiB of them.
SCORES: Final = 2**24

#: The score of what must not be recommended, and the item that stands where nothing is left.
IMPOSSIBLE: Final = float("-inf")
NOTHING: Final = -1


class Lists(NamedTuple):
    """The best items of S users, best first."""

    items: Integers  # (S, K) item, or NOTHING where fewer than K are left
    scores: Floats  # (S, K) its score, or IMPOSSIBLE


class HistoryRanker(Protocol):
    """What ranks items after histories: a system without semantic IDs."""

    def __call__(
        self,
        found: Histories,
        /,
        *,
        length: int,
        seen: Histories | None = None,
        progress: Callable[[list[slice]], Iterable[slice]] = iter,
    ) -> Lists:
        """Return for each sample of found the `length` best items.

        seen has the same samples with all that their users had, where that is to be left out. progress wraps the blocks
        of users.
        """
        ...


def rank_histories(
    score: Callable[[Histories], Floats],
    found: Histories,
    *,
    items: int,
    length: int,
    seen: Histories | None = None,
    progress: Callable[[list[slice]], Iterable[slice]] = iter,
) -> Lists:
    """Return for each sample of found the `length` items that score finds best, among items 0..items-1.

    score takes samples and gives their scores (B, items), IMPOSSIBLE for what it would never recommend. The other
    arguments are those of a `HistoryRanker`.
    """
    users, length = max(1, SCORES // items), min(length, items)
    blocks = [slice(start, start + users) for start in range(0, len(found.targets), users)]
    lists = []
    for block in progress(blocks):
        scores = score(found.block(block))
        if seen is not None:
            before = seen.block(block)
            scores[np.repeat(np.arange(len(scores)), before.lengths), before.before] = IMPOSSIBLE
        lists.append(best_items(scores, length=length))
    return joined(lists, length=length)


def joined(lists: Sequence[Lists], *, length: int) -> Lists:
    """Return the lists of one block after the other, each of `length` items, as those of all."""
    nothing = Lists(np.empty((0, length), np.int64), np.empty((0, length)))
    return Lists(*(np.concatenate(parts) for parts in zip(nothing, *lists, strict=True)))


def best_items(scores: Floats, *, length: int) -> Lists:
    """Return the `length` columns of scores (B, N) that are highest, N at least length; equal ones in ascending order.

    >>> best_items(np.array([[1.0, 3.0, 1.0, 0.0]]), length=2).items
    array([[1, 0]])
    """
    last = np.partition(scores, -length, axis=1)[:, -length, None]  # (B, 1) the lowest score that is in
    row, item = np.nonzero((scores >= last) & (scores > IMPOSSIBLE))  # with all that share the last one's score
    return best_entries(row, item, scores[row, item], rows=len(scores), length=length)


def best_entries(row: Integers, item: Integers, score: Floats, *, rows: int, length: int) -> Lists:
    """Return the `length` entries of each row 0..rows-1 that are highest; row, item and score (E,) are those of all.

    Equal ones stand in ascending order of their items.
    """
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_in = place < length
    best = Lists(np.full((rows, length), NOTHING), np.full((rows, length), IMPOSSIBLE))
    where = (row[is_in], place[is_in])
    best.items[where], best.scores[where] = item[is_in], score[is_in]
    return best


def log_shares(strengths: Floats) -> Floats:
    """Return the logarithm of the share of each of strengths (B, N) in its row's sum of those above 0.

    What is not above 0 has no share and is IMPOSSIBLE.

    >>> np.exp(log_shares(np.array([[1.0, 3.0, -2.0]]))).round(2).tolist()
    [[0.25, 0.75, 0.0]]
    """
    strengths = np.maximum(strengths, 0.0)
    shares = np.divide(strengths, strengths.sum(axis=1, keepdims=True), where=strengths > 0, out=strengths)
    return np.log(shares, where=shares > 0, out=np.full(shares.shape, IMPOSSIBLE))


def rankings_table(
    items: NDArray[np.integer], scores: NDArray[np.floating], *, users: pl.Series, split: str, modality: str
) -> pl.DataFrame:
    """Return lists of items (S, K), NOTHING where there is none, as rows split, user, modality, rank, item, score.

    Row i of items and scores belongs to users[i]; ranks count from 1.
    """
    row, place = np.nonzero(items > NOTHING)
    return pl.DataFrame(
        {
            "split": pl.repeat(split, len(row), dtype=pl.String, eager=True),
            "user": users.gather(row),
            "modality": pl.repeat(modality, len(row), dtype=pl.String, eager=True),
            "rank": pl.Series(place + 1, dtype=pl.UInt16),
            "item": pl.Series(items[row, place], dtype=pl.UInt32),
            "score": pl.Series(scores[row, place], dtype=pl.Float32),
        }
    )
