"""From raw reviews to interactions dense enough to learn from, in an order that no tie leaves to chance.

An interaction is a pair of user and item that occurs once. Columns ending in `_key` hold the source's names;
`user` and `item` hold dense integers. N is the number of interactions.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError
from tessera.items.hashing import Hashes, key_hashes, mixed

Integers = NDArray[np.int64]
Codes = NDArray[np.uint32]
Sizes = dict[str, int]  # users, items, interactions
Side = TypeVar("Side")
Content = TypeVar("Content")

#: How interactions with the same time are ordered.
Ties = Literal["hash", "file_order", "reverse_file_order"]

#: Columns of names; inside this module they may hold numbers that stand for these, so that texts are compared once.
KEYS = ("user_key", "item_key")

#: The column that says where a row stands in the table whose names have become numbers.
PLACE = "place"

#: How many bits of its hash say to which group a key belongs.
GROUP_BITS = 6

#: Bits of a code: two make a number that stands for a pair.
HALF = np.uint64(32)

#: The share of rows that must drop at a look at all of them for another such look.
GOOD_PART = 1 / 8


def rated_at_least(reviews: pl.DataFrame, *, min_rating: float | None) -> pl.DataFrame:
    """Return the reviews rated min_rating or better; None returns all, rated or not."""
    if min_rating is None:
        return reviews
    return reviews.filter(pl.col("rating").fill_nan(None) >= min_rating)


def distinct_interactions(reviews: pl.DataFrame, *, min_rating: float | None) -> pl.DataFrame:
    """Return the reviews (user_key, item_key, time, rating, row) with each pair of user and item once, in their order.

    Of a user's reviews of one item the earliest stays, and of those at one time the first in the file. Reviews
    below min_rating are gone before: they are no interactions, and so no repeats.

    A user who reviews x at time 5 and again at time 3 keeps the review at time 3.
    """
    reviews = rated_at_least(reviews, min_rating=min_rating)
    users, items = _codes_of_both(reviews)
    pairs = users.astype(np.uint64) << HALF | items
    rivals = np.flatnonzero(_is_repeated(pairs))
    time, row = (reviews[name].to_numpy()[rivals] for name in ("time", "row"))
    rivals = rivals[np.lexsort((row, time, pairs[rivals]))]
    is_later = pairs[rivals[1:]] == pairs[rivals[:-1]]
    kept = np.ones(reviews.height, dtype=bool)
    kept[rivals[1:][is_later]] = False
    return reviews.filter(kept)


def _is_repeated(pairs: Hashes) -> NDArray[np.bool_]:
    """Return for each pair whether it occurs more than once: where few do, sorting finds these sooner than grouping."""
    ordered = np.sort(pairs)
    repeated = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]]).unique()
    return pl.Series(pairs).is_in(repeated.implode()).to_numpy()


def k_core(interactions: pl.DataFrame, *, k: int) -> pl.DataFrame:
    """Drop users and items (user_key, item_key) with fewer than k interactions, until none is left to drop.

    Dropping an item can push a user below k, so one pass is not enough: users {A: [x, y], B: [x]} with k=2 end
    empty, not with A's two rows. What remains is the largest part in which all have k, so the order of dropping
    does not matter.

    Work is linear in N, however long the chain of drops: all are looked at again as long as that drops a good part of
    them; from then on, only the rows of users and items that have just fallen below k are visited. Rows must be
    distinct pairs, and keep their order.
    """
    rows: Integers = np.arange(interactions.height)
    owners = _codes_of_both(interactions)
    dropped = rows.size
    while dropped > rows.size * GOOD_PART:
        enough = np.logical_and.reduce([(np.bincount(owner) >= k)[owner] for owner in owners])
        rows, owners = rows[enough], [owner[enough] for owner in owners]
        dropped = enough.size - rows.size
    kept = np.zeros(interactions.height, dtype=bool)
    kept[rows[_core(owners, k=k)]] = True
    return interactions.filter(kept)


def _core(owners: Sequence[Codes], *, k: int) -> NDArray[np.bool_]:
    """Return which rows the k-core keeps."""
    sides = _of_both(_Side, owners)
    kept = np.ones(owners[0].size, dtype=bool)
    lost = np.flatnonzero(np.logical_or.reduce([side.left[side.owner] < k for side in sides]))
    while lost.size:
        kept[lost] = False
        doomed = np.concatenate([side.lose(lost, k=k) for side in sides])
        lost = np.unique(doomed[kept[doomed]])
    return kept


class _Side:
    """The users, or the items, of N interactions: whose each row is, and how many rows each has left."""

    def __init__(self, owner: Codes) -> None:
        self.owner = owner
        self.left: Integers = np.bincount(owner)
        self.sizes = self.left.copy()
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.rows: Integers = np.argsort(owner)

    def lose(self, rows: Integers, *, k: int) -> Integers:
        """Count rows as gone; return every row, gone or not, of those whom this pushes below k."""
        owners = self.owner[rows]
        had_enough = self.left[owners] >= k
        np.subtract.at(self.left, owners, 1)
        fallen = np.unique(owners[had_enough & (self.left[owners] < k)])
        sizes = self.sizes[fallen]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.rows[np.repeat(self.starts[fallen], sizes) + within]


def _of_both(work: Callable[[Side], Content], sides: Sequence[Side]) -> list[Content]:
    """Return what work makes of the side of the users and of that of the items, each in a thread of its own."""
    with ThreadPoolExecutor(max_workers=len(sides)) as pool:
        return list(pool.map(work, sides))


def _codes_of_both(table: pl.DataFrame) -> list[Codes]:
    """Return the codes of user_key and of item_key."""
    return _of_both(_codes, [table[name] for name in KEYS])


def _codes(keys: pl.Series) -> Codes:
    """Return a number for each key, the same for the same key; keys that are such numbers stay as they are.

    Keys are numbered group by group, by the first bits of their hashes: the dictionary of a group stays in the cache,
    where that of millions of keys misses it at each.
    """
    if keys.dtype == pl.UInt32:
        return keys.to_numpy()
    group = (keys.hash().to_numpy() >> np.uint64(64 - GROUP_BITS)).astype(np.uint8)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=2**GROUP_BITS))
    together = keys.rechunk()
    codes = np.empty(len(keys), np.uint32)
    known = 0
    for start, end in pairwise([0, *ends.tolist()]):
        rows = order[start:end]
        encoded = together.gather(rows).to_arrow().dictionary_encode()
        codes[rows] = encoded.indices.to_numpy() + known
        known += len(encoded.dictionary)
    return codes


class Filtered(NamedTuple):
    """What a part of the filter leaves, and what it takes."""

    interactions: pl.DataFrame
    dropped: dict[str, Sizes]  # by reason


def dense_interactions(reviews: pl.DataFrame, *, min_rating: float | None, k: int) -> Filtered:
    """Return the k-core of the distinct interactions, whatever is known of the items.

    Raises DataError, naming the parameter and what there was before, where nothing is left.
    """
    if reviews.is_empty():
        raise DataError("reviews: expected at least one, found none")
    coded = reviews.with_columns(map(pl.Series, KEYS, _codes_of_both(reviews)))
    unrated = reviews["rating"].null_count()
    rated_enough = f"filter.min_rating = {min_rating}" + (f", {unrated} without a rating" if unrated else "")
    dense = _filtered(
        coded.with_row_index(PLACE),
        _Step("below_min_rating", rated_enough, partial(rated_at_least, min_rating=min_rating)),
        _Step("repeats", "distinct pairs", partial(distinct_interactions, min_rating=None)),
        _Step("k_core", f"filter.k = {k}", partial(k_core, k=k)),
    )
    names = reviews.select(KEYS)[dense.interactions[PLACE]]
    return dense._replace(interactions=dense.interactions.drop(PLACE).with_columns(names))


def interactions_with(interactions: pl.DataFrame, present: Mapping[str, pl.Series], *, k: int) -> Filtered:
    """Return the k-core of the interactions with items whose key is among the present ones of each modality.

    Of the k-core of all interactions this gives what it gives of all interactions: users and items that have k
    among the required items have k among all, so the first k-core drops none of them. That is why only items of a
    first k-core need their picture fetched.

    Raises DataError, naming the parameter and what there was before, where nothing is left.
    """
    required = f"filter.required = [{', '.join(present)}]"
    return _filtered(
        interactions,
        *(_Step(f"without_{modality}", required, partial(_among, keys=keys)) for modality, keys in present.items()),
        _Step("k_core_of_rest", f"filter.k = {k} after {required}", partial(k_core, k=k)),
    )


class _Step(NamedTuple):
    reason: str
    parameter: str
    apply: Callable[[pl.DataFrame], pl.DataFrame]


def _filtered(interactions: pl.DataFrame, *steps: _Step) -> Filtered:
    sizes, dropped = sizes_of(interactions), {}
    for step in steps:
        before = sizes
        interactions = step.apply(interactions)
        if interactions.is_empty():
            found = ", ".join(f"{count} {what}" for what, count in before.items())
            raise DataError(f"{step.parameter}: expected interactions to be left, found 0 of {found}")
        sizes = before if interactions.height == before["interactions"] else sizes_of(interactions)
        dropped[step.reason] = {what: before[what] - sizes[what] for what in sizes}
    return Filtered(interactions, dropped)


def _among(interactions: pl.DataFrame, *, keys: pl.Series) -> pl.DataFrame:
    return interactions.join(keys.to_frame("item_key"), on="item_key", how="semi", maintain_order="left")


def sizes_of(interactions: pl.DataFrame) -> Sizes:
    """Return how many users, items and interactions there are."""
    users, items = map(_count_distinct, _codes_of_both(interactions))
    return {"users": users, "items": items, "interactions": interactions.height}


def _count_distinct(codes: Codes) -> int:
    occurs = np.zeros(codes.max(initial=0) + 1, dtype=bool)
    occurs[codes] = True
    return int(np.count_nonzero(occurs))


def numbered(interactions: pl.DataFrame) -> pl.DataFrame:
    """Add user and item: 0..n-1 in the order of the bytes of user_key and item_key. Rows keep their order."""
    numbers = _of_both(_numbers, [interactions[name] for name in KEYS])
    return interactions.with_columns(map(pl.Series, ("user", "item"), numbers))


def _numbers(keys: pl.Series) -> Codes:
    encoded = keys.to_arrow().dictionary_encode()
    names = pl.Series(encoded.dictionary)
    numbers = np.empty(len(names), np.uint32)
    numbers[names.arg_sort()] = np.arange(len(names))
    return numbers[encoded.indices]


def in_order(interactions: pl.DataFrame, *, ties: Ties) -> pl.DataFrame:
    """Sort interactions (user, item, their keys, time, row) by user and time, and count each user's from 0: position.

    Equal times are usual where a source has days only. They are ordered by `tie_hashes`, which says nothing of the
    items and is the same everywhere, or by row: as the file has them, which may tell more than was known at the time,
    or the other way round, which shows how much hangs on it.
    """
    tie = pl.Series("tie", tie_hashes(interactions)) if ties == "hash" else interactions["row"].alias("tie")
    is_backwards = [False, False, ties == "reverse_file_order", False]
    ordered = interactions.with_columns(tie).sort("user", "time", "tie", "item", descending=is_backwards).drop("tie")
    lengths = np.bincount(ordered["user"])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ordered.with_columns(position=pl.Series(np.arange(ordered.height) - starts, dtype=pl.UInt32))


def tie_hashes(interactions: pl.DataFrame) -> Hashes:
    """Return (N,) hashes of user and item: mix(mix(fnv(user_key)) xor fnv(item_key)), mix being SplitMix64's finaliser.

    The user takes part so that two items of equal time do not come in the same order for all users, which a model
    could learn.
    """
    of_users, of_items = (key_hashes(counted(interactions, side)["key"]) for side in ("user", "item"))
    return mixed(mixed(of_users)[interactions["user"].to_numpy()] ^ of_items[interactions["item"].to_numpy()])


def tie_rate(interactions: pl.DataFrame) -> float:
    """Return the share of users whose last two interactions (user, position, time) have the same time."""
    last_two = interactions.filter(pl.col("position") + 2 >= pl.len().over("user"))
    is_tie = (pl.len() == 2) & (pl.col("time").min() == pl.col("time").max())  # noqa: PLR2004 - the last two
    ties = last_two.group_by("user").agg(tie=is_tie)["tie"]
    return int(ties.sum()) / max(len(ties), 1)


def counted(interactions: pl.DataFrame, side: Literal["user", "item"]) -> pl.DataFrame:
    """Return the users or items of the interactions, sorted: their integer, key and number of interactions."""
    return interactions.group_by(side).agg(key=pl.col(f"{side}_key").first(), interactions=pl.len()).sort(side)


def statistics(interactions: pl.DataFrame) -> dict[str, float]:
    """Return users, items, interactions, sparsity = 1 - interactions / (users * items), average_length, tie_rate."""
    sizes = sizes_of(interactions)
    return {
        **sizes,
        "sparsity": 1 - sizes["interactions"] / (sizes["users"] * sizes["items"]),
        "average_length": sizes["interactions"] / sizes["users"],
        "tie_rate": tie_rate(interactions),
    }
