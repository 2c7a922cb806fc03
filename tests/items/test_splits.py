"""Splits: leave-one-out, by time, and with cold items; and that what training must not know reaches none of it."""

import numpy as np
import polars as pl
import pytest

from tessera.errors import DataError
from tessera.items.filtering import in_order, numbered
from tessera.items.splits import Points, leave_one_out, points_in_time, split_by_time, split_sizes, without_training
from tests.items.test_filtering import reviews


def test_the_last_is_test_and_the_last_but_one_valid_where_three_are_there():
    lengths = {"A": 1, "B": 2, "C": 3, "D": 5}
    found = in_order(
        numbered(reviews([(user, f"{at}", at) for user in lengths for at in range(lengths[user])])), ties="hash"
    )
    split = leave_one_out(found)
    assert split.group_by("user_key", maintain_order=True).agg("split").rows() == [
        ("A", ["train"]),
        ("B", ["train", "train"]),
        ("C", ["train", "valid", "test"]),
        ("D", ["train", "train", "train", "valid", "test"]),
    ]
    assert split_sizes(split) == {"train": 7, "valid": 2, "test": 2}


def test_the_split_reads_positions_not_the_order_of_rows():
    found = leave_one_out(pl.DataFrame({"user": [0, 0, 0], "position": [2, 0, 1]}))
    assert found["split"].to_list() == ["test", "train", "valid"]


def ordered(*rows):
    """Interactions (user, item, time), in order."""
    return in_order(numbered(reviews(rows)), ties="file_order")


#: Points are 10 and 20. B has nothing between them, C one thing alone, D nothing before them, E nothing after.
SHOP = ordered(
    *[("A", item, time) for item, time in zip("stuvwxyz", (1, 2, 10, 10, 15, 20, 20, 30), strict=True)],
    ("B", "s", 1), ("B", "t", 25), ("B", "u", 26),
    ("C", "u", 20),
    ("D", "s", 12), ("D", "t", 13), ("D", "u", 25),
    ("E", "s", 8), ("E", "t", 9),
)  # fmt: skip


def test_a_split_by_time_worked_by_hand():
    split = split_by_time(SHOP, Points(10, 20))
    assert split.group_by("user_key", maintain_order=True).agg("split").rows() == [
        ("A", ["train", "train", "valid", "rest", "rest", "test", "rest", "rest"]),
        ("B", ["train", "test", "rest"]),
        ("C", ["rest"]),  # a first item has no history
        ("D", ["rest", "rest", "test"]),  # nor has the first between the points, and the second is not the first
        ("E", ["train", "train"]),
    ]
    assert split.columns == [*SHOP.columns, "split"]
    assert split_sizes(split) == {"train": 5, "valid": 1, "test": 3, "rest": 8}


def test_training_ends_before_the_point_for_all_users_and_targets_come_after_it():
    generator = np.random.default_rng(0)
    rows = [(f"u{generator.integers(50)}", f"i{item}", int(generator.integers(300))) for item in range(2000)]
    table = ordered(*rows)
    points = points_in_time(table, valid_from=0.8, test_from=0.9)
    split = split_by_time(table, points)
    times = split.group_by("split").agg(first=pl.col("time").min(), last=pl.col("time").max())
    found = {name: (first, last) for name, first, last in times.iter_rows()}
    assert found["train"][1] < points.valid_from <= found["valid"][0]
    assert found["valid"][1] < points.test_from <= found["test"][0]
    assert split.filter(split="train").height / split.height == pytest.approx(0.8, abs=0.02)
    assert not split.filter(pl.col("split").is_in(["valid", "test"])).select("user", "split").is_duplicated().any()


def test_points_are_times_with_their_share_before_them():
    table = pl.DataFrame({"time": [3, 1, 2, 2]})
    assert points_in_time(table, valid_from=0.5, test_from=0.75) == Points(2, 3)
    assert points_in_time(table, valid_from=0.3, test_from=0.8) == Points(2, 3)


@pytest.mark.parametrize(
    ("valid_from", "test_from", "message"),
    [
        (0.2, 0.8, r"^filter.valid_from = 0.2: expected a point in time after 1, found 1"),
        (0.3, 0.6, r"^filter.test_from = 0.6: expected a point in time after 2, found 2"),
    ],
)
def test_points_that_leave_a_split_empty_are_refused(valid_from, test_from, message):
    with pytest.raises(DataError, match=message):
        points_in_time(pl.DataFrame({"time": [3, 1, 2, 2]}), valid_from=valid_from, test_from=test_from)


@pytest.mark.parametrize(("users", "split"), [("BCDE", "valid"), ("CE", "test"), ("E", "test")])
def test_a_split_by_time_without_a_target_is_refused(users, split):
    table = SHOP.filter(pl.col("user_key").is_in(list(users)))
    with pytest.raises(DataError, match=f"filter.split = time: expected a {split} target, .* {len(users)} with"):
        split_by_time(table, Points(10, 20))


def test_cold_items_leave_training_and_nothing_else_changes():
    """Items s and x are cold: of s only training interactions are there, and x is a target."""
    split = split_by_time(SHOP, Points(10, 20))
    cold = split.filter(pl.col("item_key").is_in(["s", "x"]))["item"].unique()
    found = without_training(split, cold)
    assert found.drop("split").equals(split.drop("split"))
    changed = found.filter(found["split"] != split["split"])
    assert set(changed.select("item_key", "split").rows()) == {("s", "rest")}
    assert split_sizes(found) == {"train": 2, "valid": 1, "test": 3, "rest": 11}


def test_cold_items_alone_are_refused():
    split = leave_one_out(SHOP)
    with pytest.raises(DataError, match=r"^filter.cold_items: expected a warm item in training, found none"):
        without_training(split, split["item"].unique())


def test_no_cold_item_changes_nothing():
    split = leave_one_out(SHOP)
    assert without_training(split, split["item"].clear()).equals(split)
