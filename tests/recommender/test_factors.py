"""Matrix factorisations: what is taken together comes first, nothing of a target is learned, and a seed decides all."""

import numpy as np
import polars as pl
import pytest

from tessera.errors import CheckpointError, DataError
from tessera.recommender.corpus import histories
from tessera.recommender.factors import (
    AlsSettings,
    BprSettings,
    als_of,
    als_scores,
    bpr_scores,
    fit_als,
    fit_bpr,
    item_factors,
)
from tessera.recommender.lists import IMPOSSIBLE
from tests.recommender.test_popularity import interactions

ALS = AlsSettings(factors=4, regularisation=0.01, alpha=1.0, iterations=10)
BPR = BprSettings(factors=4, regularisation=0.01, lr=0.1, epochs=200)
FITTED = {
    "als": lambda shop, *, items, seed=0: (fit_als(shop, items=items, settings=ALS, seed=seed), als_scores),
    "bpr": lambda shop, *, items, seed=0: (fit_bpr(shop, items=items, settings=BPR, seed=seed), bpr_scores),
}

#: Two circles of friends: 0..7 take four of the items 0..4 in training, 8..15 four of 5..9; all have the targets 0, 5.
GROUPS = {
    user: [start + (user + step) % 5 for step in range(4)] + [0, 5] for user, start in enumerate([0] * 8 + [5] * 8)
}


@pytest.fixture(params=FITTED)
def scored(request):
    """Return `scored(shop)`: the scores of each user's items for his validation and for his test item."""

    def call(shop, *, items=10, seed=0):
        model, score = FITTED[request.param](shop, items=items, seed=seed)
        return {split: score(model, histories(shop, split=split, max_history=20)) for split in ("valid", "test")}

    return call


def test_what_is_taken_together_comes_first(scored):
    """What a user's friends took and he did not take stands before all that the others took."""
    scores = scored(interactions(GROUPS))["valid"]
    for user, items in GROUPS.items():
        start = 0 if user < 8 else 5
        missing = next(item for item in range(start, start + 5) if item not in items[:4])
        others = scores[user, 5 - start : 10 - start]
        assert scores[user, missing] > others.max()


def test_scores_are_log_probabilities(scored):
    for scores in scored(interactions(GROUPS)).values():
        assert scores.shape == (16, 10)
        assert np.exp(scores).sum(axis=1) == pytest.approx(1.0)


def test_targets_are_not_learned(scored):
    """Other validation and test items leave all scores for the validation item as they are."""
    moved = {user: [*items[:4], 5, 0] for user, items in GROUPS.items()}
    one, other = scored(interactions(GROUPS)), scored(interactions(moved))
    assert one["valid"].tolist() == other["valid"].tolist()


def test_a_seed_decides_all(scored):
    shop = interactions(GROUPS)
    first, again, other = scored(shop, seed=3), scored(shop, seed=3), scored(shop, seed=4)
    assert first["test"].tolist() == again["test"].tolist()
    assert first["test"].tolist() != other["test"].tolist()


def test_an_item_that_nobody_took_in_training_is_impossible(scored):
    shop = interactions({user: [*items[:4], 0, 10] for user, items in GROUPS.items()})
    scores = scored(shop, items=11)["test"]
    assert (scores[:, 10] == IMPOSSIBLE).all()
    assert np.exp(scores).sum(axis=1) == pytest.approx(1.0)


def test_als_tells_the_test_item_from_the_validation_item_too():
    model, score = FITTED["als"](interactions(GROUPS), items=10)
    other = interactions({user: [*items[:4], 9, 5] for user, items in GROUPS.items()})
    first, second = (
        score(model, histories(shop, split="test", max_history=20)) for shop in (interactions(GROUPS), other)
    )
    assert (first[:8, 9] < second[:8, 9]).all()


def test_als_solves_for_a_history_as_the_paper_does():
    """Equation 4: (Y'Y + Y'(C - 1)Y + r)^-1 Y'C p, with C = alpha for what the history holds and 1 for the rest."""
    settings = ALS._replace(alpha=3.0, regularisation=0.2)
    model = fit_als(interactions(GROUPS), items=10, settings=settings, seed=0)
    found = histories(interactions(GROUPS), split="test", max_history=2).block(slice(1, 2))
    items = model.item_factors.astype(np.float64)
    taken = np.isin(np.arange(10), found.before)
    assert taken.sum() == 2
    confidence = np.where(taken, 3.0, 1.0)
    user = np.linalg.solve((items.T * confidence) @ items + 0.2 * np.eye(4), items.T @ (confidence * taken))
    estimates = np.maximum(items @ user, 0.0)
    assert np.exp(als_scores(model, found)[0]) == pytest.approx(estimates / estimates.sum(), abs=1e-5)


def test_als_of_its_items_factors_scores_as_it_did():
    shop = interactions({user: [*items[:4], 0, 10] for user, items in GROUPS.items()})
    model = fit_als(shop, items=11, settings=ALS, seed=0)
    factors = item_factors(model)
    assert factors["present"].to_list() == [True] * 10 + [False]
    found = histories(shop, split="test", max_history=20)
    assert als_scores(als_of(factors, settings=ALS), found).tolist() == als_scores(model, found).tolist()


def test_two_bpr_scores_differ_by_the_odds_of_one_item_against_the_other():
    model, score = FITTED["bpr"](interactions(GROUPS), items=10)
    found = histories(interactions(GROUPS), split="test", max_history=20)
    products = model.user_factors[found.users] @ model.item_factors.T
    scores = score(model, found)
    assert scores[:, 1] - scores[:, 8] == pytest.approx(products[:, 1] - products[:, 8], abs=1e-5)


def test_a_user_without_training_rows_gets_what_is_liked_in_general_of_bpr():
    shop = interactions({**GROUPS, 16: [3, 4]})
    model, score = FITTED["bpr"](shop, items=10)
    scores = score(model, histories(shop, split="test", max_history=20))
    biases = model.item_factors[:, -1].astype(np.float64)
    assert scores[16] - scores[16, 0] == pytest.approx(biases - biases[0], abs=1e-5)


def test_nothing_to_learn_from_is_an_error(scored):
    with pytest.raises(DataError, match="training interactions: expected at least one, found none"):
        scored(interactions(GROUPS).filter(pl.col("split") != "train"))


def test_factors_that_are_no_numbers_are_an_error():
    with pytest.raises(CheckpointError, match=r"factors: expected numbers, found others .* a lower bpr\.lr may help"):
        fit_bpr(interactions(GROUPS), items=10, settings=BPR._replace(lr=1e30), seed=0)
