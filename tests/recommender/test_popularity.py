import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tessera.recommender.popularity import items_by_popularity, rank_by_popularity
from tessera.recommender.targets import find_targets
from tessera.schemas import INTERACTIONS, RANKINGS


def interactions(sequences):
    """Build interactions from each user's items in order: the last is the test, the one before the valid target."""
    rows = []
    for user, items in sequences.items():
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        rows += [
            (user, item, place, place, split) for place, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def lists_of(ranked):
    grouped = ranked.sort("rank").group_by("split", "user", maintain_order=True).agg("item")
    return {(split, user): items for split, user, items in grouped.iter_rows()}


def ranked_of(table, *, length, exclude_seen):
    popular, seen = items_by_popularity(table), table if exclude_seen else None
    return rank_by_popularity(find_targets(table), popular, length=length, seen=seen)


# Training: item 2 three times, items 0 and 3 once; item 1 only as a target.
SHOP = {0: [2, 3, 1, 0], 1: [2, 0, 3, 1], 2: [2, 1, 0]}


def test_by_hand():
    ranked = lists_of(ranked_of(interactions(SHOP), length=3, exclude_seen=False))
    assert set(ranked) == {(split, user) for split in ("valid", "test") for user in SHOP}
    assert all(items == [2, 0, 3] for items in ranked.values())


def test_seen_items_give_way_to_the_next_popular():
    ranked = lists_of(ranked_of(interactions(SHOP), length=2, exclude_seen=True))
    assert ranked["valid", 0] == [0, 1]  # has seen 2 and 3
    assert ranked["test", 0] == [0]  # has seen 1 as well: nothing else is left
    assert ranked["valid", 2] == [0, 3]
    assert ranked["test", 2] == [0, 3]  # item 1, just seen, would not have been among the first two


def test_table():
    ranked = ranked_of(interactions(SHOP), length=2, exclude_seen=False)
    assert ranked.schema == pl.Schema(RANKINGS)
    assert ranked.filter(split="test", user=0).rows() == [
        ("test", 0, "popularity", 1, 2, 3.0),
        ("test", 0, "popularity", 2, 0, 1.0),
    ]


SEQUENCES = st.dictionaries(
    st.integers(0, 9), st.lists(st.integers(0, 7), min_size=3, max_size=8, unique=True), min_size=1
)


@pytest.mark.parametrize("exclude_seen", [False, True])
@given(sequences=SEQUENCES, length=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_twin(exclude_seen, sequences, length):
    table = interactions(sequences)
    training = [item for items in sequences.values() for item in items[:-2]]
    popular = sorted(
        {item for items in sequences.values() for item in items}, key=lambda item: (-training.count(item), item)
    )
    expected = {}
    for user, items in sequences.items():
        for split, history in (("valid", items[:-2]), ("test", items[:-1])):
            expected[split, user] = [item for item in popular if not (exclude_seen and item in history)][:length]
    found = lists_of(ranked_of(table, length=length, exclude_seen=exclude_seen))
    assert found == {key: items for key, items in expected.items() if items}


def test_a_user_who_has_seen_more_than_a_rank_can_count():
    """The result's ranks are of 16 bits."""
    many = 70_000
    popular = pl.DataFrame({"item": range(many + 2), "score": 1.0, "place": range(many + 2)}).cast(
        {"item": pl.UInt32, "score": pl.Float32, "place": pl.UInt32}
    )
    seen = pl.DataFrame({"user": 0, "item": range(many), "position": range(many)}).cast(pl.UInt32)
    target = pl.DataFrame({"split": "test", "user": [0], "history_length": [many]}).cast(
        {"user": pl.UInt32, "history_length": pl.UInt32}
    )
    assert rank_by_popularity(target, popular, length=2, seen=seen)["item"].to_list() == [many, many + 1]


def test_the_order_of_rows_does_not_matter():
    table = interactions(SHOP)
    ranked = ranked_of(table, length=3, exclude_seen=True)
    assert_frame_equal(ranked_of(table.reverse(), length=3, exclude_seen=True), ranked)
