import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import DataError
from tessera.recommender.trie import build_trie, children_of, path_of
from tests.recommender.tries import walk


def test_by_hand():
    trie = build_trie(np.array([[5, 8], [4, 9], [5, 7]]))
    first, second = trie.levels
    assert first.starts.tolist() == [0, 2]
    assert first.tokens.tolist() == [4, 5]
    assert second.starts.tolist() == [0, 1, 3]
    assert second.tokens.tolist() == [9, 7, 8]
    assert (first.width, second.width) == (2, 2)
    assert trie.items.tolist() == [1, 2, 0]
    assert trie.distinct


IDS = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(2, 6)] * levels), min_size=1, max_size=30)
)


@given(IDS)
def test_walking_it_gives_back_every_id_with_its_items(ids):
    trie = build_trie(np.array(ids))
    expected: dict[tuple[int, ...], list[int]] = {}
    for item, path in enumerate(ids):
        expected.setdefault(path, []).append(item)
    assert list(walk(trie)) == sorted(expected.items())
    assert trie.distinct == (len(expected) == len(ids))


@given(IDS)
def test_children_of_a_state_are_ascending_and_width_is_the_most_that_one_has(ids):
    for level in build_trie(np.array(ids)).levels:
        counts = level.starts.diff()
        assert level.width == counts.max()
        for start, count in zip(level.starts, counts, strict=False):
            children = level.tokens[start : start + count]
            assert torch.equal(children, children.unique())


@given(IDS)
def test_the_path_of_an_item_spells_its_id_and_ends_where_the_item_is(ids):
    trie = build_trie(np.array(ids))
    items = torch.arange(len(ids)).flip(0)
    path = path_of(trie, items)
    spelled = torch.stack([level.tokens[states] for level, states in zip(trie.levels, path, strict=True)], dim=1)
    assert spelled.tolist() == [list(ids[item]) for item in items.tolist()]
    for item, leaf in zip(items.tolist(), path[-1].tolist(), strict=True):
        assert item in trie.items[trie.leaf_starts[leaf] : trie.leaf_starts[leaf + 1]]


@given(IDS)
def test_children_of_a_state_are_the_tokens_that_follow_its_prefix(ids):
    trie = build_trie(np.array(ids))
    for depth, level in enumerate(trie.levels):
        prefixes = sorted({path[:depth] for path in ids})
        children = children_of(level, torch.arange(len(prefixes)))
        for prefix, tokens, legal in zip(prefixes, children.tokens, children.legal, strict=True):
            following = sorted({path[depth] for path in ids if path[:depth] == prefix})
            assert tokens[legal].tolist() == following


def test_no_items_are_an_error():
    with pytest.raises(DataError, match="expected IDs of at least one item"):
        build_trie(np.empty((0, 4), np.uint16))


def test_a_million_items_take_little_memory():
    ids = np.random.default_rng(0).integers(0, 256, (100_000, 4)).astype(np.uint16)
    assert build_trie(ids).bytes < 100_000 * 4 * 3 * 8
