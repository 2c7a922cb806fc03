"""Further targets for training histories: what a system that counts, the teacher, holds likely to come next.

A history has one target, what its user happened to take, of many that he might have taken. A T5 that learns from few
users has to guess the others from other histories' targets; a teacher that counts pairs of items knows them at once.
So its distribution is told to the T5 as further samples. Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)
matches the teacher's distribution; here targets are drawn from it, since a T5 tells an item code by code, and what it
says of drawn items is, on the mean, the same cross-entropy.

Letters: S histories, N items, K items that a teacher ranks, R targets drawn of a history.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special

from tessera.recommender.corpus import BLOCK, Histories, histories
from tessera.recommender.lists import NOTHING, Floats, Integers, Lists, rank_histories

#: A history is ranked for by a teacher that was fitted without its user, as those are to be ranked for whom the T5 will
#: see later; so many teachers are fitted.
FOLDS: Final = 5

#: Items that a teacher ranks for a history: K.
LENGTH: Final = 50

#: Histories that a teacher is calibrated on, at even distances: enough for two numbers.
CALIBRATED_ON: Final = 2**15

#: Histories whose K items are in memory at once.
AT_ONCE: Final = BLOCK // 16

#: Weights that a calibration may find: exp(-20) is no repeat at all.
BOUNDS: Final = ((0.0, 20.0), (-20.0, 20.0))

#: Returns a teacher, fitted on interactions: what gives histories their scores (B, N), log-shares.
Fit = Callable[[pl.DataFrame], Callable[[Histories], Floats]]


class Calibration(NamedTuple):
    """How a teacher's log-shares become the logits of a target."""

    sharpness: float  # what they are multiplied by
    seen: float  # what is added to that of an item in the history


class Taught(NamedTuple):
    """What a teacher adds to the training histories."""

    targets: Integers  # (S, R) items, NOTHING where the teacher knows of none
    calibrations: list[Calibration]  # of each fold
    hit_rate: float  # share of the histories whose own target is among the K items

    def measures(self) -> dict[str, float]:
        """Return what tells of the teacher: further targets, how often it knows the own one, the mean calibration."""
        sharpness, seen = np.mean(self.calibrations, axis=0).tolist() if self.calibrations else (1.0, 0.0)
        return {
            "targets": int((self.targets > NOTHING).sum()),
            f"hr@{LENGTH}": self.hit_rate,
            "sharpness": sharpness,
            "seen": seen,
        }


def taught_targets(
    interactions: pl.DataFrame,
    fit: Fit,
    *,
    items: int,
    count: int,
    max_history: int,
    progress: Callable[[list[slice]], Iterable[slice]] = iter,
) -> Taught:
    """Return `count` further targets for each training history, in the order of `histories`, among items 0..items-1.

    interactions has columns user, item, position and split; only training interactions are looked at. Users are dealt
    into FOLDS; the teacher of a fold is fitted on the training interactions of the others', and calibrated on the
    targets of its own histories. The draws are the same for all seeds. progress wraps blocks of histories.
    """
    train = interactions.filter(pl.col("split") == "train")
    found = histories(train, split="train", max_history=max_history)
    targets = np.full((len(found.targets), count), NOTHING)
    generator, calibrations, hits = np.random.default_rng(0), [], 0
    folds = [np.flatnonzero(found.users % FOLDS == fold) for fold in range(FOLDS)]
    for fold, rows in enumerate(folds):
        if not len(rows):
            continue
        score = fit(train.filter(pl.col("user") % FOLDS != fold))

        def ranked(part: Integers, score: Callable[[Histories], Floats] = score) -> tuple[Histories, Lists]:
            block = found.block(part)
            return block, rank_histories(score, block, items=items, length=LENGTH)

        calibrations.append(calibrated(*ranked(rows[:: -(-len(rows) // CALIBRATED_ON)])))
        for block in progress([slice(start, start + AT_ONCE) for start in range(0, len(rows), AT_ONCE)]):
            told, lists = ranked(rows[block])
            targets[rows[block]] = drawn(lists, shares_of(told, lists, calibrations[-1]), count, generator=generator)
            hits += int(_is_target(told, lists).any(axis=1).sum())
    return Taught(targets, calibrations, hits / max(1, len(found.targets)))


def calibrated(found: Histories, lists: Lists) -> Calibration:
    """Return the calibration under which the targets of found (S,) are likeliest, where lists hold them.

    With s the log-share of an item and h 1 where it is in the history, p is proportional to exp(sharpness s + seen h)
    over the items of a list: two weights of a multinomial logit, whose likelihood has one maximum. Where no target is
    in a list, log-shares stay as they are.
    """
    is_target, is_seen = _is_target(found, lists), _is_seen(found, lists)
    is_told = is_target.any(axis=1)
    if not is_told.any():
        return Calibration(1.0, 0.0)
    scores, is_seen, is_target = lists.scores[is_told], is_seen[is_told], is_target[is_told]
    is_item = lists.items[is_told] > NOTHING
    features = np.stack([np.where(is_item, scores, 0.0), is_seen])  # (2, S, K)
    chosen = features[:, is_target]  # (2, S)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.where(is_item, np.tensordot(weights, features, axes=1), -np.inf)
        gradient = (features * special.softmax(logits, axis=1)).sum(axis=2) - chosen
        losses = special.logsumexp(logits, axis=1) - weights @ chosen
        return losses.mean(), gradient.mean(axis=1)

    best = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=BOUNDS)
    return Calibration(*best.x.tolist())


def shares_of(found: Histories, lists: Lists, calibration: Calibration) -> Floats:
    """Return the probability (S, K) of each item of lists to be the target; 0 where there is no item."""
    is_item = lists.items > NOTHING
    logits = calibration.sharpness * np.where(is_item, lists.scores, 0.0) + calibration.seen * _is_seen(found, lists)
    largest = np.where(is_item, logits, -np.inf).max(axis=1, keepdims=True)
    shares = np.exp(logits - largest, where=is_item, out=np.zeros(logits.shape))
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


def _is_target(found: Histories, lists: Lists) -> NDArray[np.bool_]:
    return lists.items == found.items[found.targets].astype(np.int64)[:, None]


def _is_seen(found: Histories, lists: Lists) -> NDArray[np.bool_]:
    """Return which of lists' items (S, K) are in the history that they are ranked for."""
    rows = np.arange(len(found.targets))
    width = 1 + max(int(found.items.max(initial=0)), int(lists.items.max(initial=0)))
    had = np.repeat(rows, found.lengths) * width + found.before
    return np.isin(rows[:, None] * width + lists.items, had) & (lists.items > NOTHING)
