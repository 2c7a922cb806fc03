"""Lists out of scores: by hand, and as a plain sort would make them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.recommender import lists as module
from tessera.recommender.corpus import histories
from tessera.recommender.lists import IMPOSSIBLE, NOTHING, best_items, rank_histories, rankings_table
from tests.recommender.conftest import circle_interactions

ITEMS = 9


def plainly_sorted(scores, *, length):
    """The items of each row of scores, by a plain sort: best first, the lower number first among equals."""
    lists = []
    for row in scores.tolist():
        order = sorted(
            (item for item in range(len(row)) if row[item] > IMPOSSIBLE), key=lambda item: (-row[item], item)
        )
        lists.append((order + [NOTHING] * length)[:length])
    return lists


@given(
    st.lists(st.lists(st.sampled_from([IMPOSSIBLE, -2.0, 0.0, 0.5, 1.0]), min_size=5, max_size=5), max_size=6),
    st.integers(1, 5),
)
def test_twin(rows, length):
    scores = np.array(rows, np.float64).reshape(len(rows), 5)
    best = best_items(scores, length=length)
    assert best.items.tolist() == plainly_sorted(scores, length=length)
    for row, (items, found) in enumerate(zip(*best, strict=True)):
        assert found.tolist() == [IMPOSSIBLE if item == NOTHING else scores[row, item] for item in items]


def test_rankings_table_by_hand():
    items, scores = np.array([[7, 3], [5, NOTHING]]), np.array([[-0.5, -1.0], [-2.0, IMPOSSIBLE]])
    table = rankings_table(items, scores, users=pl.Series([4, 9], dtype=pl.UInt32), split="test", modality="text")
    assert table.rows() == [
        ("test", 4, "text", 1, 7, -0.5),
        ("test", 4, "text", 2, 3, -1.0),
        ("test", 9, "text", 1, 5, -2.0),
    ]


@pytest.fixture
def shop():
    return circle_interactions(users=8, items=ITEMS, length=6, seed=0)


def by_last(found):
    """Score an item by how far it is from the last of the history, nearest first."""
    last = found.before[np.cumsum(found.lengths) - 1].astype(np.int64)
    return -np.abs(np.arange(ITEMS) - last[:, None]).astype(np.float64)


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_blocks_change_nothing(shop, monkeypatch, at_once):
    found = histories(shop, split="test", max_history=3)
    usual = rank_histories(by_last, found, items=ITEMS, length=4)
    monkeypatch.setattr(module, "SCORES", at_once)
    blocks = []
    again = rank_histories(by_last, found, items=ITEMS, length=4, progress=lambda all_: blocks.extend(all_) or all_)
    assert len(blocks) == {1: 8, 20: 4, 10_000: 1}[at_once]
    assert again.items.tolist() == usual.items.tolist()
    assert usual.items.tolist() == plainly_sorted(by_last(found), length=4)


def test_what_was_seen_is_left_out_however_long_ago(shop):
    found = histories(shop, split="test", max_history=1)
    seen = histories(shop, split="test", max_history=shop.height)
    ranked = rank_histories(by_last, found, items=ITEMS, length=ITEMS, seen=seen)
    for user, items in zip(found.users, ranked.items.tolist(), strict=True):
        history = set(shop.filter(pl.col("user") == user, pl.col("split") != "test")["item"])
        assert set(items) - {NOTHING} == set(range(ITEMS)) - history


def test_a_list_is_no_longer_than_the_catalogue_and_no_user_is_no_list(shop):
    found = histories(shop, split="test", max_history=3)
    assert rank_histories(by_last, found, items=ITEMS, length=50).items.shape == (8, ITEMS)
    assert rank_histories(by_last, found.block(slice(0)), items=ITEMS, length=50).items.shape == (0, ITEMS)
