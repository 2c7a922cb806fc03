"""Matrix factorisations, which know who took what but not in which order: ALS and BPR, as `implicit` fits them.

A user and an item have a vector of F factors each, and what the user will take is told by their product. Both are
fitted to the training interactions alone. They differ in how the product becomes the log-probability of an item that
rankings are fused by, and in what they know of a user when his validation or test item is to be told:

- ALS (Hu, Koren and Volinsky 2008) estimates whether a user takes an item, 1 or 0: an item's probability is the share
  of its estimate in the sum of all, where what is estimated at 0 or below has none. A user's vector is solved for anew
  from the history (equation 4), so that the test item is told from the validation item too.
- BPR (Rendle et al. 2009, section 4.1) has the logistic function of a difference of two products for the probability
  that one item is preferred to another. The softmax over all items has just these probabilities for every two. A
  user's vector is the trained one, since the paper has no other: it knows no more than training, at the test item too.

Unlike that paper, the library draws the item that a taken one is compared with as often as that was taken, and gives
items a bias. Its threads write over each other's factors and sum in any order: here it has one, so that a seed gives
the same factors each time.

Letters: B users of a block, U users, N items, F factors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from tessera.errors import CheckpointError, DataError
from tessera.recommender.corpus import Histories
from tessera.recommender.lists import IMPOSSIBLE, Floats, log_shares

#: A model of the library, which has no types.
Model = Any

#: A sparse matrix of SciPy; the library takes no sparse array.
Sparse = Any


class AlsSettings(NamedTuple):
    """How ALS is fitted."""

    factors: int  # F
    regularisation: float  # weight of the squared factors
    alpha: float  # weight of what a user took, where that of each item he did not take is 1
    iterations: int  # solutions for all users and then for all items


class BprSettings(NamedTuple):
    """How BPR is fitted."""

    factors: int  # F, without the bias
    regularisation: float  # weight of the squared factors
    lr: float
    epochs: int  # passes over as many drawn interactions as there are


def fit_als(interactions: pl.DataFrame, *, items: int, settings: AlsSettings, seed: int) -> Model:
    """Return ALS fitted to the training rows of interactions (user, item, split), of items 0..items-1.

    Raises DataError where there is no training row.
    """
    taken = _training_matrix(interactions, items=items)
    with _one_thread():
        model = _als(settings, random_state=seed)
        return _fitted(model, taken, advice="fewer als.factors or a higher als.regularisation")


def als_of(factors: pl.DataFrame, *, settings: AlsSettings) -> Model:
    """Return the ALS whose items have these factors: a table of VECTORS, as item_factors gives it.

    It knows no users, and als_scores needs none.
    """
    with _one_thread():
        model = _als(settings)
    model.item_factors = factors["vector"].to_numpy().copy()  # the library takes nothing read-only
    return model


def item_factors(model: Model) -> pl.DataFrame:
    """Return the factors of the items of model, as a table of VECTORS: zeros, not present, where nobody took one."""
    factors = np.asarray(model.item_factors, np.float32)
    columns = {"item": np.arange(len(factors), dtype=np.uint32), "vector": factors, "present": factors.any(axis=1)}
    return pl.DataFrame(columns)


def als_scores(model: Model, found: Histories) -> Floats:
    """Return the log-shares (B, N) of each item in what ALS estimates that the users of found take, by their histories.

    What is estimated at 0 or below, as is an item that nobody took in training, is IMPOSSIBLE.
    """
    offsets = np.concatenate([[0], np.cumsum(found.lengths)])
    ones = np.ones(offsets[-1], np.float32)
    history = csr_matrix((ones, found.before, offsets), shape=(len(found.lengths), len(model.item_factors)))
    with _one_thread():
        users = model.recalculate_user(np.arange(len(found.lengths)), history)
        return log_shares((users @ model.item_factors.T).astype(np.float64))


def fit_bpr(interactions: pl.DataFrame, *, items: int, settings: BprSettings, seed: int) -> Model:
    """Return BPR fitted to the training rows of interactions (user, item, split), of items 0..items-1.

    Raises DataError where there is no training row, and CheckpointError where a factor is no longer a number.
    """
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    taken = _training_matrix(interactions, items=items)
    with _one_thread():
        model = BayesianPersonalizedRanking(
            factors=settings.factors,
            learning_rate=settings.lr,
            regularization=settings.regularisation,
            iterations=settings.epochs,
            num_threads=1,
            random_state=seed,
        )
        return _fitted(model, taken, advice="a lower bpr.lr")


def bpr_scores(model: Model, found: Histories) -> Floats:
    """Return the log-probability (B, N) that the users of found prefer each item to all others, by BPR.

    A user without training rows gets what is liked in general. An item without is IMPOSSIBLE: BPR knows nothing of it.
    """
    with _one_thread():
        scores = (model.user_factors[found.users] @ model.item_factors.T).astype(np.float64)
    scores[:, ~model.item_factors.any(axis=1)] = IMPOSSIBLE
    return log_softmax(scores, axis=1)


def _als(settings: AlsSettings, **options: Any) -> Model:
    from implicit.cpu.als import AlternatingLeastSquares

    return AlternatingLeastSquares(
        factors=settings.factors,
        regularization=settings.regularisation,
        alpha=settings.alpha,
        iterations=settings.iterations,
        num_threads=1,
        **options,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have matrix products take one thread, without which the library warns and sums differ from run to run."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _training_matrix(interactions: pl.DataFrame, *, items: int) -> Sparse:
    """Return 1 where a user took an item in training, (U, N)."""
    train = interactions.filter(pl.col("split") == "train")
    if train.is_empty():
        raise DataError("training interactions: expected at least one, found none")
    users = int(interactions["user"].to_numpy().max()) + 1
    ones = np.ones(train.height, np.float32)
    return csr_matrix((ones, (train["user"].to_numpy(), train["item"].to_numpy())), shape=(users, items))


def _fitted(model: Model, taken: Sparse, *, advice: str) -> Model:
    from implicit.recommender_base import ModelFitError

    try:
        model.fit(taken, show_progress=False)
    except ModelFitError as error:
        raise CheckpointError(f"factors: expected numbers, found others ({error}); {advice} may help") from error
    return model
