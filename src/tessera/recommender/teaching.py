"""Further targets for training histories: what a system that counts, the teacher, holds likely to come next.

A history has one target, what its user happened to take, of many that he might have taken. A T5 that learns from few
users has to guess the others from other histories' targets; a teacher that counts pairs of items knows them at once.
So its distribution is told to the T5 as further samples, the own target among them where the teacher knows it.
Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) matches the teacher's distribution; here targets are drawn
from it, since a T5 tells an item code by code, and what it says of drawn items is, on the mean, the same cross-entropy.

Letters: S histories, N items, K items that a teacher ranks, R targets drawn of a history.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special

from tessera.recommender.corpus import histories
from tessera.recommender.lists import NOTHING, Floats, HistoryRanker, Integers, Lists

#: A history is ranked for by a teacher that was fitted without its user: one that has counted the very target would be
#: far too sure of it. So many teachers are fitted.
FOLDS: Final = 5

#: Tells the draws of folds and of targets from each other and from other draws of the corpus; no seed changes them.
OF_FOLDS, OF_TARGETS = 1, 2

#: Items that a teacher ranks for a history: K.
LENGTH: Final = 50

#: Histories that a teacher is calibrated on, at even distances: enough for one number.
CALIBRATED_ON: Final = 2**15

#: Histories whose K items are in memory at once.
AT_ONCE: Final = 2**16

#: Sharpnesses that a calibration may find (at 0 all K items are equally likely), and what the square of their distance
#: from 1 weighs, which decides where targets say nothing.
BOUNDS: Final = (0.0, 20.0)
TOWARDS_ONE: Final = 1e-6

#: Returns a teacher, fitted on interactions, whose scores are log-shares.
Fit = Callable[[pl.DataFrame], HistoryRanker]


class Taught(NamedTuple):
    """What a teacher adds to the training histories."""

    targets: NDArray[np.int32]  # (S, R) items, NOTHING where the teacher knows of none
    sharpness: list[float]  # of each teacher
    hit_rate: float  # share of the histories whose own target is among the K items

    def measures(self) -> dict[str, float]:
        """Return what tells of the teacher: how many targets it named, how often it knew the own one, its sharpness."""
        return {
            "targets": int((self.targets > NOTHING).sum()),
            f"hr@{LENGTH}": self.hit_rate,
            "sharpness": float(np.mean(self.sharpness or [1.0])),
        }


def taught_targets(
    interactions: pl.DataFrame,
    fit: Fit,
    *,
    count: int,
    max_history: int,
    progress: Callable[[list[slice]], Iterable[slice]] = iter,
) -> Taught:
    """Return `count` further targets for each training history, in the order of `histories`.

    interactions has columns user, item, position and split, each pair of user and item once, so that no target is an
    item that the user had; only training interactions are looked at. Users are dealt into FOLDS; the teacher of a fold
    is fitted on the training interactions of the others', and calibrated on the targets of its own histories. The draws
    are the same for all seeds. progress wraps blocks of histories.
    """
    train = interactions.filter(pl.col("split") == "train")
    found = histories(train, split="train", max_history=max_history)
    seen = histories(train, split="train", max_history=train.height)
    own = found.target_items
    targets = np.full((len(own), count), NOTHING, np.int32)
    folds = folds_of(train["user"])
    generator, sharpness, hits = np.random.default_rng(OF_TARGETS), [], 0
    for fold in range(FOLDS):
        rows, others = np.flatnonzero(folds[found.users] == fold), train.filter(folds[train["user"]] != fold)
        if not len(rows) or others.is_empty():
            continue
        rank = fit(others)
        some = rows[:: -(-len(rows) // CALIBRATED_ON)]
        sharpness.append(sharpness_of(rank(found.block(some), length=LENGTH, seen=seen.block(some)), own[some]))
        for block in progress([slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)]):
            lists = rank(found.block(rows[block]), length=LENGTH, seen=seen.block(rows[block]))
            targets[rows[block]] = drawn(lists, shares_of(lists, sharpness[-1]), count, generator=generator)
            hits += int((lists.items == own[rows[block], None]).sum())
        del rank  # before the next teacher is fitted
    return Taught(targets, sharpness, hits / max(1, len(own)))


def folds_of(users: pl.Series) -> Integers:
    """Return the fold of each of the users 0..max(users): dealt at random, as keys that come in turns would not be."""
    count = int(users.to_numpy().max()) + 1 if len(users) else 0
    return np.random.default_rng(OF_FOLDS).permutation(count) % FOLDS


def sharpness_of(lists: Lists, targets: NDArray[np.uint32]) -> float:
    """Return the power of the shares of lists (S, K) under which the targets (S,) are likeliest, where lists hold them.

    With p of `shares_of` that is the one maximum of the sum of log p(target). Where no list holds its target it is 1.
    """
    is_target = lists.items == targets[:, None]
    is_told = is_target.any(axis=1)
    if not is_told.any():
        return 1.0
    scores, chosen = lists.scores[is_told], lists.scores[is_target]

    def loss(sharpness: float) -> float:
        losses = special.logsumexp(sharpness * scores, axis=1) - sharpness * chosen
        return float(losses.mean() + TOWARDS_ONE * (sharpness - 1) ** 2)

    return float(optimize.minimize_scalar(loss, bounds=BOUNDS, method="bounded").x)


def shares_of(lists: Lists, sharpness: float) -> Floats:
    """Return the probability (S, K) of each item of lists, its log-share being s: p = exp(sharpness s) / their sum.

    It is 0 where there is no item.
    """
    is_item = lists.items > NOTHING
    best = np.where(is_item[:, :1], lists.scores[:, :1], 0.0)  # a list has its best item first
    shares = np.exp(sharpness * (np.where(is_item, lists.scores, best) - best)) * is_item
    sums = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, sums, where=sums > 0, out=shares)


def drawn(lists: Lists, shares: Floats, count: int, *, generator: np.random.Generator) -> Integers:
    """Return `count` items (S, count) of each of lists, an item as often as its share (S, K) says, NOTHING of none.

    The draws lie at even distances in the sum of the shares, from a random start: no item comes more than one time
    more or less often than `count` times its share.
    """
    points = (np.arange(count) + generator.random((len(shares), 1))) / count  # (S, R)
    ends = shares.cumsum(axis=1)
    places = (ends[:, None, :-1] <= points[:, :, None]).sum(axis=2)  # the last end is 1 but for rounding
    return np.take_along_axis(lists.items, places, axis=1)
