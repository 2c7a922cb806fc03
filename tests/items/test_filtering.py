from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tessera.errors import DataError
from tessera.items import filtering
from tessera.items.filtering import (
    counted,
    dense_interactions,
    distinct_interactions,
    in_order,
    interactions_with,
    k_core,
    numbered,
    sizes_of,
    statistics,
    tie_hashes,
    tie_rate,
)
from tests.items.test_hashing import slow_hash, slow_mix

SCHEMA = {"user_key": pl.String, "item_key": pl.String, "time": pl.Int64, "rating": pl.Float32, "row": pl.UInt64}
WORD = 2**64

rows = st.lists(
    st.tuples(
        st.sampled_from("ABCDEFGH"),
        st.sampled_from("stuvwxyz"),
        st.integers(0, 3),
        st.sampled_from([1.0, 3.0, 5.0, None, float("nan")]),
    ),
    max_size=80,
)


def reviews(found):
    """Reviews of (user, item), then time and rating where they are said: otherwise the row, and 5."""
    filled = [
        (user, item, row[0] if row else at, row[1] if len(row) > 1 else 5.0)
        for at, (user, item, *row) in enumerate(found)
    ]
    return pl.DataFrame([(*row, at) for at, row in enumerate(filled)], schema=SCHEMA, orient="row")


def pairs(interactions):
    return list(interactions.select("user_key", "item_key").iter_rows())


# de-duplication


def test_the_earliest_repeat_counts_and_of_equal_times_the_first_in_the_file():
    found = reviews([("A", "x", 5), ("A", "y", 4), ("A", "x", 3), ("B", "x", 9), ("A", "x", 3)])
    assert distinct_interactions(found, min_rating=None)["row"].to_list() == [1, 2, 3]


def test_a_rating_that_is_too_low_is_no_first_interaction():
    found = reviews([("A", "x", 1, 2.0), ("A", "x", 2, 4.0), ("B", "x", 1, None), ("B", "y", 1, float("nan"))])
    assert distinct_interactions(found, min_rating=4.0)["row"].to_list() == [1]
    assert distinct_interactions(found, min_rating=None)["row"].to_list() == [0, 2, 3]


@settings(deadline=None)
@given(rows, st.sampled_from([None, 1.0, 3.0, 5.0]))
def test_distinct_interactions_equal_a_walk_in_the_order_of_time(found, min_rating):
    seen, kept = set(), []
    for row, (user, item, _, rating) in sorted(enumerate(found), key=lambda numbered: (numbered[1][2], numbered[0])):
        liked = min_rating is None or (rating is not None and rating >= min_rating)
        if liked and (user, item) not in seen:
            seen.add((user, item))
            kept.append(row)
    assert distinct_interactions(reviews(found), min_rating=min_rating)["row"].to_list() == sorted(kept)


# k-core


def test_the_k_core_repeats_until_it_is_stable():
    assert k_core(reviews([("A", "x"), ("A", "y"), ("B", "x")]), k=2).is_empty()


def test_the_k_core_keeps_the_dense_part_in_its_order():
    found = reviews([("B", "y"), ("C", "z"), ("A", "x"), ("A", "z"), ("B", "x"), ("A", "y")])
    assert pairs(k_core(found, k=2)) == [("B", "y"), ("A", "x"), ("B", "x"), ("A", "y")]


def test_a_chain_of_drops_is_followed_to_its_end():
    links = 500
    chain = [(f"U{at}", f"I{at + step}") for at in range(links) for step in (0, 1)]
    ring = [*chain, (f"U{links}", "I0"), (f"U{links}", f"I{links}")]
    assert k_core(reviews(chain), k=2).is_empty()
    assert k_core(reviews(ring), k=2).height == len(ring)


def slow_k_core(found, k):
    while True:
        users, items = Counter(user for user, _ in found), Counter(item for _, item in found)
        kept = [(user, item) for user, item in found if users[user] >= k and items[item] >= k]
        if kept == found:
            return found
        found = kept


@settings(deadline=None)
@given(rows, st.integers(1, 5), st.sampled_from([0, filtering.GOOD_PART, 1]))
def test_the_k_core_equals_counting_all_again(found, k, good_part):
    """Whether all are looked at until nothing drops, once in a while, or never."""
    distinct = distinct_interactions(reviews(found), min_rating=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filtering, "GOOD_PART", good_part)
        assert pairs(k_core(distinct, k=k)) == slow_k_core(pairs(distinct), k)


@settings(deadline=None)
@given(rows, st.sets(st.sampled_from("stuvwxyz")), st.integers(1, 4))
def test_pictures_of_a_first_k_core_are_enough(found, with_picture, k):
    """The k-core of the items with a picture is that of (the k-core of everything, of its items with a picture)."""
    distinct = distinct_interactions(reviews(found), min_rating=None)
    of_all = distinct.filter(pl.col("item_key").is_in(list(with_picture)))
    of_core = k_core(distinct, k=k).filter(pl.col("item_key").is_in(list(with_picture)))
    assert_frame_equal(k_core(of_core, k=k), k_core(of_all, k=k))


# the filter as a whole, and what it drops

SQUARE = [(user, item) for user in "AB" for item in "xy"]


def test_every_drop_is_counted_under_its_reason():
    loved = [(user, item, 1, 5.0) for user, item in [*SQUARE, ("A", "z"), ("B", "z")]]
    found = reviews([*loved, ("A", "x", 2, 5.0), ("C", "x", 1, 5.0), ("C", "y", 1, 2.0)])
    dense = dense_interactions(found, min_rating=3.0, k=2)
    assert dense.dropped == {
        "below_min_rating": {"users": 0, "items": 0, "interactions": 1},
        "repeats": {"users": 0, "items": 0, "interactions": 1},
        "k_core": {"users": 1, "items": 0, "interactions": 1},
    }
    left = interactions_with(dense.interactions, {"image": pl.Series(["x", "y", "unseen"])}, k=2)
    assert left.dropped == {
        "without_image": {"users": 0, "items": 1, "interactions": 2},
        "k_core_of_rest": {"users": 0, "items": 0, "interactions": 0},
    }
    assert sorted(pairs(left.interactions)) == SQUARE


@settings(deadline=None)
@given(rows, st.sampled_from([None, 3.0]), st.integers(1, 3), st.sets(st.sampled_from("stuvwxyz")))
def test_what_was_dropped_and_what_is_left_is_what_there_was(found, min_rating, k, present):
    before = sizes_of(reviews(found))
    try:
        dense = dense_interactions(reviews(found), min_rating=min_rating, k=k)
        left = interactions_with(dense.interactions, {"text": pl.Series(sorted(present), dtype=pl.String)}, k=k)
    except DataError:
        return
    drops = [*dense.dropped.values(), *left.dropped.values()]
    assert {what: sum(drop[what] for drop in drops) for what in before} == {
        what: count - sizes_of(left.interactions)[what] for what, count in before.items()
    }


def test_an_item_must_have_every_required_modality():
    found = reviews([(user, item) for user in "AB" for item in "xyz"])
    present = {"image": pl.Series(["x", "y"]), "text": pl.Series(["y", "z"])}
    left = interactions_with(found, present, k=1)
    assert sorted(pairs(left.interactions)) == [("A", "y"), ("B", "y")]
    assert [left.dropped[reason]["items"] for reason in ("without_image", "without_text")] == [1, 1]


@pytest.mark.parametrize(
    ("min_rating", "k", "message"),
    [
        (None, 3, r"^filter.k = 3: expected interactions to be left, found 0 of 2 users, 2 items, 4 interactions$"),
        (6.0, 1, r"^filter.min_rating = 6.0: .* found 0 of 2 users, 2 items, 4 interactions$"),
    ],
)
def test_nothing_left_names_the_parameter_and_the_numbers(min_rating, k, message):
    with pytest.raises(DataError, match=message):
        dense_interactions(reviews(SQUARE), min_rating=min_rating, k=k)


def test_ratings_that_are_missing_are_counted_where_none_is_good_enough():
    unrated = reviews(SQUARE).with_columns(rating=pl.lit(None, pl.Float32))
    message = r"^filter.min_rating = 3.0, 4 without a rating: .* found 0 of 2 users, 2 items, 4 interactions$"
    with pytest.raises(DataError, match=message):
        dense_interactions(unrated, min_rating=3.0, k=1)


def test_no_required_item_left_names_what_was_required():
    nothing = pl.Series([], dtype=pl.String)
    with pytest.raises(DataError, match=r"^filter.required = \[image\]: .* found 0 of 2 users, 2 items, 4 inter"):
        interactions_with(reviews(SQUARE), {"image": nothing}, k=1)
    with pytest.raises(DataError, match=r"^filter.k = 2 after filter.required = \[image\]: .* 0 of 2 users, 1 items"):
        interactions_with(reviews(SQUARE), {"image": pl.Series(["x"])}, k=2)


def test_no_reviews_are_an_error():
    with pytest.raises(DataError, match=r"^reviews: expected at least one, found none$"):
        dense_interactions(reviews([]), min_rating=None, k=1)


# numbers and order


@settings(deadline=None)
@given(st.lists(st.text(max_size=3)))
def test_sizes_count_different_keys(keys):
    found = pl.DataFrame({"user_key": keys, "item_key": keys[::-1]}, schema=dict.fromkeys(filtering.KEYS, pl.String))
    assert sizes_of(found) == {"users": len(set(keys)), "items": len(set(keys)), "interactions": len(keys)}


def test_numbers_follow_the_bytes_of_the_keys():
    found = numbered(reviews([("b", "10"), ("a", "9"), ("é", "10"), ("B", "9")]))
    assert found["user"].to_list() == [2, 1, 3, 0]
    assert found["item"].to_list() == [0, 1, 0, 1]
    assert counted(found, "item").rows() == [(0, "10", 2), (1, "9", 2)]


def test_order_is_by_time_and_positions_count_from_zero_per_user():
    found = in_order(numbered(reviews([("B", "x", 2), ("A", "y", 7), ("B", "y", 1), ("A", "x", 3)])), ties="hash")
    assert found.select("user_key", "item_key", "position").rows() == [
        ("A", "x", 0),
        ("A", "y", 1),
        ("B", "y", 0),
        ("B", "x", 1),
    ]


def test_file_order_puts_equal_times_as_the_file_has_them():
    found = numbered(reviews([("A", "z", 1), ("A", "x", 1), ("A", "y", 1), ("A", "w", 0)]))
    assert in_order(found, ties="file_order")["item_key"].to_list() == ["w", "z", "x", "y"]
    assert in_order(found, ties="reverse_file_order")["item_key"].to_list() == ["w", "y", "x", "z"]


def test_hashed_ties_do_not_depend_on_the_order_of_the_file_and_differ_from_user_to_user():
    ties = numbered(reviews([(user, item, 1) for user in "ABCDEF" for item in "uvwxyz"]))
    first, second = (in_order(table, ties="hash") for table in (ties, ties.sample(fraction=1, shuffle=True, seed=1)))
    assert first.select("user", "item").equals(second.select("user", "item"))
    orders = {"".join(items) for items in first.group_by("user").agg("item_key")["item_key"]}
    assert len(orders) == 6
    assert "uvwxyz" not in orders


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=6))
def test_tie_hashes_equal_their_formula(found):
    expected = [slow_mix(slow_mix(slow_hash(user)) ^ slow_hash(item)) for user, item in found]
    assert tie_hashes(numbered(reviews(found))).tolist() == expected


def test_tie_hashes_stay_what_they_are():
    """An order that changes from release to release changes every result: this pins it."""
    assert tie_hashes(numbered(reviews([("A2IBPI20UZIR0U", "B00004UE29")]))).tolist() == [0x2D8E2160A9A30785]


def test_statistics_worked_by_hand():
    """Three users, two items: A ends in a tie, B in none, and C has one interaction only."""
    found = reviews([("A", "x", 1), ("A", "y", 1), ("B", "x", 1), ("B", "y", 2), ("C", "x", 1)])
    assert statistics(in_order(numbered(found), ties="hash")) == {
        "users": 3,
        "items": 2,
        "interactions": 5,
        "sparsity": pytest.approx(1 / 6),
        "average_length": pytest.approx(5 / 3),
        "tie_rate": pytest.approx(1 / 3),
    }


def test_only_the_last_two_make_a_tie():
    found = pl.DataFrame({"user": [0, 0, 0, 1, 1, 1], "position": [0, 1, 2] * 2, "time": [1, 1, 2, 1, 2, 2]})
    assert tie_rate(found) == 0.5
