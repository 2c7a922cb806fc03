"""Numbers about codes, worked by hand and from their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tessera.codes.statistics import collisions, summary, usage

some_codes = st.integers(1, 3).flatmap(
    lambda width: st.integers(1, 20).flatmap(lambda items: arrays(np.int64, (items, width), elements=st.integers(0, 3)))
)


def test_collisions_by_hand():
    assert collisions(np.array([[1], [1], [1], [2]])) == (50.0, 3)
    assert collisions(np.array([[1, 2], [2, 1]])) == (0.0, 1)
    assert collisions(np.empty((0, 4), dtype=np.int64)) == (0.0, 0)


@given(some_codes)
def test_against_definitions(codes):
    rows = [tuple(row) for row in codes.tolist()]
    assert collisions(codes).collision_rate == pytest.approx(100 * (len(rows) - len(set(rows))) / len(rows))
    assert collisions(codes).largest_group == max(rows.count(row) for row in rows)


def test_usage_by_hand():
    """Level 0 has code 2 three times of four; level 1 goes beyond its codebook and uses each of four codes once."""
    table = usage(np.array([[2, 0], [2, 1], [0, 2], [2, 3]]), modality="text", size=3)
    assert table.filter(level=0)["share"].to_list() == [0.75, 0.25, 0.0]
    assert table.filter(level=1)["share"].to_list() == [0.25] * 4
    assert table["place"].to_list() == [1, 2, 3, 1, 2, 3, 4]
    assert table["modality"].unique().to_list() == ["text"]


def test_a_level_beyond_those_quantised_has_the_codes_that_are_used():
    table = usage(np.array([[1, 0], [1, 5], [2, 0]]), modality="text", size=8, quantised=1)
    assert table.filter(level=0).height == 8
    assert table.filter(level=1)["share"].to_list() == [2 / 3, 1 / 3]


def test_no_items_use_no_code():
    assert usage(np.empty((0, 2), dtype=np.int64), modality="text", size=2)["share"].to_list() == [0.0] * 4


def test_summary_by_hand():
    first = np.array([[0, 0], [0, 0], [1, 1], [1, 0]])
    after = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    found = summary(first, after)
    assert found["collision_rate_before"] == 25.0
    assert found["collision_rate_after"] == 0.0
    assert (found["largest_group_before"], found["largest_group_after"]) == (2, 1)
    assert found["items_moved"] == 1
    assert found["levels"]["0"] == {"codes_used": 2, "perplexity": 2.0, "entropy": 1.0}
    assert found["levels"]["1"]["entropy"] == 1.0
    assert found["levels_before"]["1"]["entropy"] == pytest.approx(0.811278, abs=1e-6)


def test_what_borrows_codes_tells_nothing_of_what_was_before():
    """Items 2 and 3 have the codes of item 0 until collisions are resolved."""
    first, after = np.array([[0], [1], [0], [0]]), np.array([[0], [1], [2], [3]])
    found = summary(first, after, present=np.array([True, True, False, False]))
    assert (found["collision_rate_before"], found["largest_group_before"]) == (0.0, 1)
    assert found["levels_before"]["0"]["perplexity"] == 2
    assert found["levels"]["0"]["codes_used"] == 4
    assert found["items_moved"] == 0
    nobody = summary(first, after, present=np.zeros(4, np.bool_))
    assert (nobody["collision_rate_before"], nobody["levels_before"]["0"]["codes_used"]) == (0.0, 0)


def test_a_code_in_addition_moves_nobody():
    found = summary(np.array([[4], [4]]), np.array([[4, 0], [4, 1]]))
    assert found["items_moved"] == 0
    assert found["collision_rate_after"] == 0
    assert list(found["levels"]) == ["0", "1"]
    assert list(found["levels_before"]) == ["0"]
