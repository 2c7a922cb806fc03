"""Further targets of training histories: whose teacher names them, how likely, how often."""

from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.recommender import teaching
from tessera.recommender.corpus import histories
from tessera.recommender.lists import IMPOSSIBLE, NOTHING, Lists, best_items, log_shares
from tessera.recommender.strengths import rank_by_strength
from tessera.recommender.teaching import FOLDS, drawn, folds_of, shares_of, sharpness_of, taught_targets
from tessera.recommender.transitions import Weights, transition_matrix
from tests.recommender.conftest import circle_interactions
from tests.recommender.dense import strength_scores

ITEMS = 12
WEIGHTS = Weights(reach=3, decay=0.5, reverse=0.0, column_power=0.0, row_power=0.0, recency=0.5)


@pytest.fixture
def shop():
    return circle_interactions(users=60, items=ITEMS, length=7, seed=0)


def strengths(interactions):
    return transition_matrix(interactions, items=ITEMS, weights=WEIGHTS)


def counting(interactions):
    return partial(rank_by_strength, strengths(interactions), recency=WEIGHTS.recency)


def taught(interactions, fit=counting, *, count=4):
    return taught_targets(interactions, fit, count=count, max_history=5)


def folds(shop, found):
    """Yield the histories of each fold, as rows of all, with the shares that its teacher gives all items."""
    train = histories(shop, split="train", max_history=5)
    folds = folds_of(shop["user"])
    for fold, sharpness in enumerate(found.sharpness):
        rows = np.flatnonzero(folds[train.users] == fold)
        block = train.block(rows)
        others = shop.filter((pl.col("split") == "train") & (folds[shop["user"]] != fold))
        scores = strength_scores(strengths(others), block, recency=WEIGHTS.recency)
        scores[np.repeat(np.arange(len(rows)), block.lengths), block.before] = IMPOSSIBLE
        powers = np.exp(sharpness * scores)
        yield rows, block, powers / powers.sum(axis=1, keepdims=True)


def test_targets_come_as_often_as_the_teacher_of_the_fold_holds_them_likely(shop):
    found = taught(shop, count=50)
    assert len(found.targets) == len(histories(shop, split="train", max_history=5).targets)
    for rows, _, shares in folds(shop, found):
        times = np.stack([np.bincount(targets, minlength=ITEMS) for targets in found.targets[rows]])
        assert (np.abs(times - 50 * shares) <= 1 + 1e-6).all()


def test_no_teacher_knows_the_user_whose_history_it_ranks_for(shop):
    known = []

    def watching(interactions):
        users = set(interactions["user"].to_list())
        rank = counting(interactions)

        def ranked(found, **asked):
            known.append(users & set(found.users.tolist()))
            return rank(found, **asked)

        return ranked

    taught(shop, watching)
    assert known
    assert not any(known)


def test_no_teacher_sees_a_validation_or_test_interaction(shop):
    seen = []

    def watching(interactions):
        seen.extend(interactions["split"].to_list())
        return counting(interactions)

    taught(shop, watching)
    assert set(seen) == {"train"}
    later = pl.col("split") != "train"
    moved = shop.with_columns(item=pl.when(later).then((pl.col("item") + 5) % ITEMS).otherwise("item"))
    assert (taught(moved).targets == taught(shop).targets).all()


def test_the_size_of_blocks_changes_nothing(shop, monkeypatch):
    whole = taught(shop)
    monkeypatch.setattr(teaching, "AT_ONCE", 7)
    blocks = taught(shop)
    assert blocks.sharpness == whole.sharpness
    assert (blocks.targets == whole.targets).all()


def test_a_teacher_is_calibrated_on_histories_at_even_distances(shop, monkeypatch):
    asked = []
    monkeypatch.setattr(teaching, "CALIBRATED_ON", 8)
    monkeypatch.setattr(teaching, "sharpness_of", lambda lists, targets: asked.append(targets.tolist()) or 1.0)
    taught(shop)
    train, folds = histories(shop, split="train", max_history=5), folds_of(shop["user"])
    for fold, targets in enumerate(asked):
        own = train.target_items[folds[train.users] == fold]
        assert targets == own[:: -(-len(own) // 8)].tolist()
        assert 4 < len(targets) <= 8 < len(own)
    assert len(asked) == FOLDS


def test_only_the_likeliest_items_are_drawn(shop, monkeypatch):
    monkeypatch.setattr(teaching, "LENGTH", 2)
    found = taught(shop, count=40)
    train, folds = histories(shop, split="train", max_history=5), folds_of(shop["user"])
    hits = 0
    for fold in range(FOLDS):
        rows = np.flatnonzero(folds[train.users] == fold)
        block = train.block(rows)
        others = shop.filter((pl.col("split") == "train") & (folds[shop["user"]] != fold))
        scores = strength_scores(strengths(others), block, recency=WEIGHTS.recency)
        scores[np.repeat(np.arange(len(rows)), block.lengths), block.before] = IMPOSSIBLE
        best = best_items(scores, length=2).items
        assert (found.targets[rows][:, :, None] == best[:, None]).any(axis=2).all()
        hits += (best == block.target_items[:, None]).sum()
    assert found.hit_rate == pytest.approx(hits / len(train.targets))
    assert 0 < found.hit_rate < 1


def test_folds_are_of_one_size_and_no_key_that_comes_in_turns_is_one():
    folds = folds_of(pl.Series(np.arange(1003, dtype=np.uint32)))
    assert sorted(np.bincount(folds)) == [200, 200, 201, 201, 201]
    assert len(folds_of(pl.Series([], dtype=pl.UInt32))) == 0
    assert all(len(set(folds[start::FOLDS].tolist())) == FOLDS for start in range(FOLDS))


def test_a_history_of_which_the_teacher_knows_nothing_has_no_target():
    strangers = [[0, 1, 2], [3, 4, 5]]  # users of two folds, who share no item
    table = pl.DataFrame(
        [(user, item, place, "train") for user, row in enumerate(strangers) for place, item in enumerate(row)],
        schema={"user": pl.UInt32, "item": pl.UInt32, "position": pl.UInt32, "split": pl.String},
        orient="row",
    )
    found = taught(table)
    assert (found.targets == NOTHING).all()
    assert found.hit_rate == 0
    assert found.measures()["targets"] == 0


def test_where_there_is_no_other_user_nothing_is_taught():
    found = taught(circle_interactions(users=1, items=ITEMS, length=7, seed=0), fit=None)
    assert (found.targets == NOTHING).all()
    assert found.measures() == {"targets": 0, "hr@50": 0.0, "sharpness": 1.0}


def test_the_hit_rate_is_that_of_all_that_the_teachers_hold_possible(shop):
    found = taught(shop)  # with fewer items than LENGTH all are listed
    hits = [
        share > 0
        for _, block, shares in folds(shop, found)
        for share in shares[np.arange(len(shares)), block.target_items]
    ]
    assert found.hit_rate == pytest.approx(np.mean(hits))


def test_shares_by_hand():
    lists = Lists(np.array([[1, 3, NOTHING]]), np.array([[np.log(0.4), np.log(0.2), IMPOSSIBLE]]))
    assert shares_of(lists, 1.0) == pytest.approx(np.array([[2 / 3, 1 / 3, 0]]))
    assert shares_of(lists, 2.0) == pytest.approx(np.array([[0.8, 0.2, 0]]))
    unlikely = Lists(np.array([[1, NOTHING]]), np.array([[-40.0, IMPOSSIBLE]]))
    assert shares_of(unlikely, 20.0).tolist() == [[1.0, 0.0]]
    nothing = Lists(np.full((1, 2), NOTHING), np.full((1, 2), IMPOSSIBLE))
    assert shares_of(nothing, 1.0).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_calibration_finds_the_power_that_drew_the_targets(sharpness):
    rng = np.random.default_rng(0)
    scores = -np.sort(-log_shares(rng.random((20_000, 6))), axis=1)
    ends = np.exp(sharpness * scores).cumsum(axis=1)
    targets = (ends < rng.random((len(ends), 1)) * ends[:, -1:]).sum(axis=1).astype(np.uint32)
    lists = Lists(np.tile(np.arange(6), (len(ends), 1)), scores)
    assert sharpness_of(lists, targets) == pytest.approx(sharpness, abs=0.05)
    # Targets that no list holds, and lists without an item, say nothing.
    more = Lists(np.pad(lists.items, ((0, 2), (0, 0)), constant_values=NOTHING), np.pad(scores, ((0, 2), (0, 0))))
    more.items[-2], more.scores[-1] = 7, IMPOSSIBLE
    assert sharpness_of(more, np.append(targets, np.uint32([1, 1]))) == sharpness_of(lists, targets)


def test_calibration_by_targets_that_say_nothing_changes_nothing():
    alone = Lists(np.array([[1, NOTHING]] * 3), np.array([[-1.0, IMPOSSIBLE]] * 3))
    assert sharpness_of(alone, np.uint32([1, 1, 1])) == pytest.approx(1.0, abs=1e-3)
    assert sharpness_of(Lists(np.array([[2, NOTHING]]), np.array([[0.0, IMPOSSIBLE]])), np.uint32([1])) == 1.0


def test_nothing_is_taught_that_the_user_had():
    rng = np.random.default_rng(0)
    taken = [rng.permutation(ITEMS)[:8] for _ in range(100)]
    rows = [(user, item, place, "train") for user, items in enumerate(taken) for place, item in enumerate(items)]
    schema = {"user": pl.UInt32, "item": pl.UInt32, "position": pl.UInt32, "split": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    train = histories(table, split="train", max_history=9)  # taught() has its teacher rank for the last five alone
    had = np.split(train.before, np.cumsum(train.lengths)[:-1])
    targets = taught(table).targets
    assert not any(np.isin(row, items).any() for row, items in zip(targets, had, strict=True))
    assert (targets > NOTHING).mean() > 0.9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda row: sum(row) > 0.01), st.integers(1, 30))
def test_an_item_is_drawn_as_often_as_its_share_says(row, count):
    shares = np.array([row]) / sum(row)
    items = np.arange(len(row))[None] + 10
    found = drawn(Lists(items, np.log(np.maximum(shares, 1e-300))), shares, count, generator=np.random.default_rng(1))
    assert found.shape == (1, count)
    times = np.bincount(found[0] - 10, minlength=len(row))
    assert (np.abs(times - count * shares[0]) <= 1 + 1e-6).all()


def test_draws_are_unbiased():
    shares = np.tile([0.6, 0.3, 0.1], (50_000, 1))
    lists = Lists(np.tile(np.arange(3), (50_000, 1)), np.log(shares))
    found = drawn(lists, shares, 1, generator=np.random.default_rng(0))
    assert np.bincount(found[:, 0]) / 50_000 == pytest.approx([0.6, 0.3, 0.1], abs=0.01)
