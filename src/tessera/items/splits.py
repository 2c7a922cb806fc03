"""Which interactions a system learns from and which it is asked for. All later stages go by the column `split`.

`train` is learned from. `valid` and `test` are targets, at most one a user and split, and a target always has items of
its user before it: its history, whatever their split. `rest` is neither: known to no training, and part of the
histories of the targets that come after it.
"""

from typing import NamedTuple

import polars as pl

from tessera.errors import DataError

SPLITS = ("train", "valid", "test", "rest")

#: What leave-one-out holds out, by place from the end; and the fewest interactions that leave a history before them.
HELD_OUT = {1: "test", 2: "valid"}
SHORTEST_EVALUATED = len(HELD_OUT) + 1


def leave_one_out(interactions: pl.DataFrame) -> pl.DataFrame:
    """Add split: of each user's interactions (user, position) the last is test, the last but one valid, others train.

    All of a user with fewer than three are train.
    """
    length = pl.len().over("user")
    held_out = (length - pl.col("position")).replace_strict(HELD_OUT, default="train", return_dtype=pl.String)
    return interactions.with_columns(
        split=pl.when(length >= SHORTEST_EVALUATED).then(held_out).otherwise(pl.lit("train"))
    )


class Points(NamedTuple):
    """The points in time between splits, as the interactions tell time."""

    valid_from: int
    test_from: int


def points_in_time(interactions: pl.DataFrame, *, valid_from: float, test_from: float) -> Points:
    """Return the times of the interactions (time) before which these shares of them lie, or less where times are equal.

    Of the times 1, 2, 2, 3 the point of 0.5 is 2, and a quarter lies before it.

    Raises DataError where nothing lies before the first point, or nothing between the two.
    """
    times = interactions["time"].sort()
    points = Points(*(times[int(share * len(times))] for share in (valid_from, test_from)))
    for name, share, point, earlier in (
        ("valid_from", valid_from, points.valid_from, times[0]),
        ("test_from", test_from, points.test_from, points.valid_from),
    ):
        if point <= earlier:
            raise DataError(
                f"filter.{name} = {share}: expected a point in time after {earlier}, found {point}, as too many "
                f"of {len(times)} interactions have that time"
            )
    return points


def split_by_time(interactions: pl.DataFrame, points: Points) -> pl.DataFrame:
    """Add split: what lies before points.valid_from is train, for all users; what was later is known to no training.

    A user's first interaction between the points is his validation target, and the first from points.test_from on
    his test target, in the order of position; but not where it is his first of all, for then there is no history. All
    others are rest. So the history of a validation target is training interactions, and that of a test target ends
    before points.test_from.

    Raises DataError where a split is left without a target.
    """
    time, position = pl.col("time"), pl.col("position")
    period = (
        pl.when(time < points.valid_from)
        .then(pl.lit("train"))
        .when(time < points.test_from)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    is_target = (position == position.min().over("user", "period")) & (position > 0)
    split = pl.when((pl.col("period") == "train") | is_target).then("period").otherwise(pl.lit("rest"))
    found = interactions.with_columns(period=period).with_columns(split=split).drop("period")
    for name in HELD_OUT.values():
        if name not in found["split"]:
            raise DataError(
                f"filter.split = time: expected a {name} target, found no user of "
                f"{found['user'].n_unique()} with an interaction in that time and one before it"
            )
    return found


def without_training(interactions: pl.DataFrame, cold: pl.Series) -> pl.DataFrame:
    """Return the interactions (item, split) with those of the cold items in rest instead of train.

    Targets stay what they are, the cold ones included.

    Raises DataError where none is left in train.
    """
    is_cold = (pl.col("split") == "train") & pl.col("item").is_in(cold.implode())
    found = interactions.with_columns(split=pl.when(is_cold).then(pl.lit("rest")).otherwise("split"))
    if "train" not in found["split"]:
        raise DataError(f"filter.cold_items: expected a warm item in training, found none, as {len(cold)} are cold")
    return found


def split_sizes(interactions: pl.DataFrame) -> dict[str, int]:
    """Return the number of interactions in each split; rest is named where it has any."""
    sizes = {split: int((interactions["split"] == split).sum()) for split in SPLITS}
    return {split: size for split, size in sizes.items() if size or split != "rest"}
