"""Ranking by strengths: as by the scores of all items, of which most are impossible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tessera.recommender import strengths as module
from tessera.recommender.corpus import Histories, histories
from tessera.recommender.lists import IMPOSSIBLE, NOTHING, best_items
from tessera.recommender.strengths import rank_by_strength, strengths_in, strengths_table
from tests.recommender.conftest import circle_interactions
from tests.recommender.dense import strength_scores

ITEMS = 9


def some_strengths(seed, *, density=0.4):
    """Strengths of items for items; some are below 0, as those of least squares are."""
    rng = np.random.default_rng(seed)
    table = rng.integers(-2, 6, (ITEMS, ITEMS)) * (rng.random((ITEMS, ITEMS)) < density)
    return sparse.csr_array(table.astype(np.float64))


def ranked_densely(strengths, found, *, recency, length, seen=None):
    scores = strength_scores(strengths, found, recency=recency)
    if seen is not None:
        scores[np.repeat(np.arange(len(scores)), seen.lengths), seen.before] = IMPOSSIBLE
    return best_items(scores, length=min(length, ITEMS))


@given(st.integers(0, 999), st.sampled_from([1.0, 0.5, 0.0]), st.integers(1, 12), st.booleans(), st.integers(1, 50))
def test_twin(seed, recency, length, leave_out, at_once):
    shop = circle_interactions(users=6, items=ITEMS, length=6, seed=seed)
    strengths = some_strengths(seed)
    found = histories(shop, split="test", max_history=3)
    seen = histories(shop, split="test", max_history=99) if leave_out else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        lists = rank_by_strength(strengths, found, recency=recency, length=length, seen=seen)
    expected = ranked_densely(strengths, found, recency=recency, length=length, seen=seen)
    assert lists.scores == pytest.approx(expected.scores)
    for row in range(len(found.targets)):  # scores that are one but for rounding may change places
        for score in set(lists.scores[row].round(9)):
            mine, theirs = (table.items[row][table.scores[row].round(9) == score] for table in (lists, expected))
            if score > lists.scores[row].min().round(9):
                assert sorted(mine) == sorted(theirs)
            assert len(mine) == len(theirs)


def test_by_hand():
    strengths = sparse.csr_array(np.array([[0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 4.0, -9.0], [0.0] * 4, [0.0] * 4]))
    found = Histories(np.array([0, 1, 2, 3], np.uint32), np.array([0, 1]), np.array([2, 3]), np.array([2, 1]))
    lists = rank_by_strength(strengths, found, recency=0.5, length=3)
    # After 0, 1: item 2 has 4 and half of 1, item 1 half of 2. After 2 alone nothing is called for.
    assert lists.items.tolist() == [[2, 1, NOTHING], [NOTHING] * 3]
    assert np.exp(lists.scores[0]) == pytest.approx([4.5 / 5.5, 1 / 5.5, 0])
    without = rank_by_strength(strengths, found, recency=0.5, length=3, seen=found)
    assert without.items.tolist() == [[2, NOTHING, NOTHING], [NOTHING] * 3]
    assert without.scores[0, 0] == lists.scores[0, 0]


def test_blocks_hold_few_strengths_and_every_history_once(monkeypatch):
    shop = circle_interactions(users=20, items=ITEMS, length=6, seed=0)
    strengths, found = some_strengths(0), histories(shop, split="test", max_history=4)
    monkeypatch.setattr(module, "AT_ONCE", 40)
    blocks = []
    rank_by_strength(strengths, found, recency=0.5, length=3, progress=lambda all_: blocks.extend(all_) or all_)
    rows = [row for block in blocks for row in range(*block.indices(99))]
    assert rows == list(range(20))
    sizes = np.diff(strengths.indptr)
    added = [sizes[found.block(slice(row, row + 1)).before].sum() for row in rows]
    assert all(sum(added[block]) <= 40 + max(added) for block in blocks)
    assert 3 < len(blocks) < 20


def test_no_history_is_no_list():
    shop = circle_interactions(users=2, items=ITEMS, length=6, seed=0)
    found = histories(shop, split="test", max_history=4).block(slice(0))
    assert rank_by_strength(some_strengths(0), found, recency=0.5, length=50).items.shape == (0, ITEMS)


def test_a_table_holds_strengths_as_they_are():
    strengths = some_strengths(3)
    again = strengths_in(strengths_table(strengths), items=ITEMS)
    assert (again.toarray() == strengths.toarray()).all()
