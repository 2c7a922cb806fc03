"""Further targets of training histories: whose teacher names them, how likely, how often."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.recommender import teaching
from tessera.recommender.corpus import histories
from tessera.recommender.lists import IMPOSSIBLE, NOTHING, Lists, log_shares
from tessera.recommender.strengths import strength_scores
from tessera.recommender.teaching import FOLDS, Calibration, calibrated, drawn, shares_of, taught_targets
from tessera.recommender.transitions import Weights, transition_matrix
from tests.recommender.conftest import circle_interactions

ITEMS = 12
WEIGHTS = Weights(reach=3, decay=0.5, reverse=0.0, column_power=0.0, row_power=0.0, recency=0.5)


@pytest.fixture
def shop():
    return circle_interactions(users=60, items=ITEMS, length=7, seed=0)


def counting(interactions):
    strengths = transition_matrix(interactions, items=ITEMS, weights=WEIGHTS)
    return lambda found: strength_scores(strengths, found, recency=WEIGHTS.recency)


def taught(interactions, fit=counting, *, count=4):
    return taught_targets(interactions, fit, items=ITEMS, count=count, max_history=5)


def one_history(items, target, *, others=()):
    """The samples of one user who took items and then target, and of others; only the last of each is kept."""
    sequences = [[*items, target], *others]
    table = pl.DataFrame(
        [(user, item, place, "train") for user, row in enumerate(sequences) for place, item in enumerate(row)],
        schema={"user": pl.UInt32, "item": pl.UInt32, "position": pl.UInt32, "split": pl.String},
        orient="row",
    )
    found = histories(table, split="train", max_history=9)
    return found.block(np.flatnonzero(np.diff(found.users, append=-1) != 0))


def folds(shop, found):
    """Yield the histories of each fold, as rows of all, with the shares that its teacher gives all items."""
    train = histories(shop, split="train", max_history=5)
    everything = np.arange(ITEMS)
    numbers = [fold for fold in range(FOLDS) if (train.users % FOLDS == fold).any()]
    for fold, calibration in zip(numbers, found.calibrations, strict=True):
        rows = np.flatnonzero(train.users % FOLDS == fold)
        block = train.block(rows)
        scores = counting(shop.filter((pl.col("split") == "train") & (pl.col("user") % FOLDS != fold)))(block)
        lists = Lists(np.where(scores > IMPOSSIBLE, everything, NOTHING), scores)
        yield rows, block, shares_of(block, lists, calibration)


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
        score = counting(interactions)

        def scored(found):
            known.append(users & set(found.users.tolist()))
            return score(found)

        return scored

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


def test_blocks_of_histories_and_their_number_change_nothing_that_is_drawn_first(shop, monkeypatch):
    whole = taught(shop)
    monkeypatch.setattr(teaching, "AT_ONCE", 10_000)
    assert (taught(shop).targets == whole.targets).all()
    monkeypatch.setattr(teaching, "AT_ONCE", 7)
    blocks = taught(shop)
    assert blocks.calibrations == whole.calibrations
    assert (blocks.targets == whole.targets).all()


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


def test_a_teacher_of_one_fold_alone():
    table = circle_interactions(users=1, items=ITEMS, length=7, seed=0)
    assert (taught(table).targets == NOTHING).all()


def test_the_hit_rate_is_that_of_all_that_the_teachers_hold_possible(shop):
    found = taught(shop)  # with fewer items than LENGTH all are listed
    hits = [
        share > 0
        for _, block, shares in folds(shop, found)
        for share in shares[np.arange(len(shares)), block.items[block.targets]]
    ]
    assert found.hit_rate == pytest.approx(np.mean(hits))


def test_shares_by_hand():
    found = one_history([3], 1)
    lists = Lists(np.array([[1, 3, NOTHING]]), np.array([[np.log(0.4), np.log(0.2), IMPOSSIBLE]]))
    assert shares_of(found, lists, Calibration(1.0, 0.0)) == pytest.approx(np.array([[2 / 3, 1 / 3, 0]]))
    assert shares_of(found, lists, Calibration(2.0, 0.0)) == pytest.approx(np.array([[0.8, 0.2, 0]]))
    # Item 3 is in the history.
    assert shares_of(found, lists, Calibration(1.0, np.log(0.5))) == pytest.approx(np.array([[0.8, 0.2, 0]]))
    nothing = Lists(np.full((1, 2), NOTHING), np.full((1, 2), IMPOSSIBLE))
    assert shares_of(found, nothing, Calibration(1.0, 0.0)).tolist() == [[0.0, 0.0]]


def test_an_item_in_another_users_history_is_not_seen():
    found = one_history([3], 1, others=[[2, 5]])
    lists = Lists(np.array([[2, 3], [2, 3]]), np.log([[0.5, 0.5], [0.5, 0.5]]))
    shares = shares_of(found, lists, Calibration(1.0, -1e9))
    assert shares.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(("sharpness", "seen"), [(0.5, 0.0), (1.0, -1.0), (2.0, 1.5)])
def test_calibration_finds_the_weights_that_drew_the_targets(sharpness, seen):
    rng = np.random.default_rng(0)
    count, width = 20_000, 6
    scores = log_shares(rng.random((count, width)))
    had = rng.integers(0, width, count)
    logits = sharpness * scores + seen * (np.arange(width) == had[:, None])
    ends = np.exp(logits).cumsum(axis=1)
    targets = (ends < rng.random((count, 1)) * ends[:, -1:]).sum(axis=1)
    table = pl.DataFrame(
        {
            "user": np.repeat(np.arange(count, dtype=np.uint32), 2),
            "item": np.stack([had, targets], axis=1).astype(np.uint32).ravel(),
            "position": np.tile(np.arange(2, dtype=np.uint32), count),
            "split": "train",
        }
    )
    found = histories(table, split="train", max_history=3)
    lists = Lists(np.tile(np.arange(width), (count, 1)), scores)
    assert calibrated(found, lists) == pytest.approx(Calibration(sharpness, seen), abs=0.1)


def test_where_nobody_takes_a_thing_twice_none_is_taught_twice():
    rng = np.random.default_rng(0)
    taken = [rng.permutation(ITEMS)[:6] for _ in range(300)]
    rows = [(user, item, place, "train") for user, items in enumerate(taken) for place, item in enumerate(items)]
    schema = {"user": pl.UInt32, "item": pl.UInt32, "position": pl.UInt32, "split": pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    train = histories(table, split="train", max_history=5)
    had = np.split(train.before, np.cumsum(train.lengths)[:-1])
    again = np.mean([np.isin(row, items) for row, items in zip(taught(table).targets, had, strict=True)])
    assert again < 0.001


def test_calibration_without_a_hit_changes_nothing():
    found = one_history([3], 1)
    lists = Lists(np.array([[2, NOTHING]]), np.array([[0.0, IMPOSSIBLE]]))
    assert calibrated(found, lists) == Calibration(1.0, 0.0)


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
