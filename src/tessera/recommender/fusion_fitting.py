"""How much each ranking tells, learned on the validation split: the weights of the fusion rule `learned`.

Letters: U users, M rankings, C candidates: pairs of a user and an item that one of his lists holds.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import minimize

from tessera.errors import DataError
from tessera.recommender.fusion import USER_BITS, USER_ITEM, Weight, list_entries
from tessera.recommender.metrics import Floats
from tessera.recommender.targets import names_of, of_some_users

Integers = npt.NDArray[np.int64]

#: Users that are learned from, at most, which bounds memory and time.
USERS: Final = 100_000

#: Weight of the squares of all weights beside a user's mean loss: keeps those finite that nothing bounds.
PENALTY: Final = 1e-4


class _Candidates(NamedTuple):
    """What users could have been recommended, sorted by user."""

    features: Floats  # (C, 2 M) how far above its list's lowest score each stands in each ranking, and whether it does
    starts: Integers  # (U,) where each user's candidates begin
    is_target: npt.NDArray[np.bool_]  # (C,) one of each user's


def learn_weights(rankings: pl.LazyFrame, targets: pl.DataFrame) -> dict[str, Weight]:
    """Return a weight for each ranking, by its name, under which the targets stand out among all that was found.

    rankings has the columns user, modality, item and score, of one split; targets has user and item. With C(u) the
    items of user u's lists and z the sum that `fusion.fuse` takes, the weights minimise

        mean over u of -log (exp z(u, target) / sum over i in C(u) of exp z(u, i))

    which is a conditional logit (McFadden 1974, "Conditional logit analysis of qualitative choice behavior"), and is
    convex. No paper of this field publishes it. Users whose target no list holds tell nothing. A score's weight is
    not below 0, so that no list is read backwards; of a single ranking nothing is learned, and its weight is 1.

    Raises DataError where no list holds its user's target.
    """
    names = sorted(names_of(rankings))
    if len(names) <= 1:
        return {name: Weight(1.0, 0.0) for name in names}
    looked_at = of_some_users(rankings, most=USERS)
    candidates = _candidates([looked_at.filter(modality=name) for name in names], targets)
    if not len(candidates.starts):
        raise DataError(
            "decode.fusion: expected validation targets among what the rankings hold, to learn from, found none"
        )
    bounds = [(0.0, None)] * len(names) + [(None, None)] * len(names)
    first = np.zeros(2 * len(names))
    found: Any = minimize(_loss, first, args=candidates, jac=True, method="L-BFGS-B", bounds=bounds)
    return {name: Weight(*map(float, found.x[place :: len(names)])) for place, name in enumerate(names)}


def _candidates(lists: list[pl.DataFrame], targets: pl.DataFrame) -> _Candidates:
    """Return what the lists (M) of users hold, of those users whose target is among it."""
    entries = [list_entries(ranking) for ranking in lists]
    pairs, places = np.unique(np.concatenate([each["user_item"].to_numpy() for each in entries]), return_inverse=True)
    features = np.zeros((len(pairs), 2 * len(lists)))
    for column, (each, rows) in enumerate(zip(entries, np.split(places, _ends(entries)), strict=True)):
        features[rows, column] = (each["score"] - each["floor"]).to_numpy()
        features[rows, column + len(lists)] = 1.0
    wanted = targets.select(USER_ITEM).to_series().to_numpy()
    is_target, users = np.isin(pairs, wanted), pairs >> USER_BITS
    told = np.isin(users, users[is_target])
    _, starts = np.unique(users[told], return_index=True)
    return _Candidates(features[told], starts, is_target[told])


def _ends(entries: list[pl.DataFrame]) -> Integers:
    return np.cumsum([each.height for each in entries])[:-1]


def _loss(weights: Floats, *candidates: Any) -> tuple[float, Floats]:
    """Return the mean loss of a user and its gradient (2 M,), both with the penalty."""
    features, starts, is_target = candidates
    lengths = np.diff(starts, append=len(features))
    sums = features @ weights
    sums -= np.repeat(np.maximum.reduceat(sums, starts), lengths)
    shares = np.exp(sums)
    totals = np.add.reduceat(shares, starts)
    shares /= np.repeat(totals, lengths)
    loss = (np.log(totals).sum() - sums[is_target].sum()) / len(starts)
    gradient = features.T @ (shares - is_target) / len(starts)
    return float(loss + PENALTY * weights @ weights), gradient + 2 * PENALTY * weights
