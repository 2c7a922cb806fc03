"""The floor that every system has to beat: everyone is recommended what sold best."""

from typing import Final

import polars as pl

#: The name under which this ranking stands beside those of the modalities.
POPULARITY: Final = "popularity"


def rank_by_popularity(interactions: pl.DataFrame, *, length: int, exclude_seen: bool) -> pl.DataFrame:
    """Return for each user with a target the `length` items that have the most training interactions.

    interactions has the columns user, item, position and split; a user has a target in a split, `valid` or `test`,
    where it has a row of that split. Equally popular items stand in the order of their index. With exclude_seen the
    items that the user had before the target are left out and the next popular ones move up.

    The result has the columns split, user, modality ("popularity"), rank, item and score (the number of training
    interactions), sorted by split, user and rank. A list is shorter than `length` only where there are no more items.
    """
    popular = _by_popularity(interactions)
    targets = (
        interactions.filter(pl.col("split").is_in(["valid", "test"]))
        .select("split", "user", target="position")
        .sort("split", "user")
        .with_row_index("list")
    )
    if exclude_seen:
        offered = _unseen(interactions, targets, popular, length=length)
    else:
        offered = targets.join(popular.head(length), how="cross", maintain_order="left_right")
    return (
        offered.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.UInt16).over("list"))
        .filter(pl.col("rank") <= length)
        .select("split", "user", pl.lit(POPULARITY).alias("modality"), "rank", "item", "score")
    )


def _by_popularity(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return item, score and place (from 0) of every item, those without one in training included."""
    return (
        interactions.group_by("item")
        .agg(score=(pl.col("split") == "train").sum().cast(pl.Float32))
        .sort("score", "item", descending=[True, False])
        .with_columns(place=pl.int_range(pl.len(), dtype=pl.UInt32))
    )


def _unseen(interactions: pl.DataFrame, targets: pl.DataFrame, popular: pl.DataFrame, *, length: int) -> pl.DataFrame:
    """Return the most popular items that each user has not seen before its target, at least `length` where there are.

    A user who has seen n items finds `length` others among the first `length + n` places.
    """
    seen = (
        targets.join(interactions.select("user", "item", "position"), on="user")
        .filter(pl.col("position") < pl.col("target"))
        .join(popular.select("item", "place"), on="item")
        .select("list", "place")
    )
    counts = seen.group_by("list").agg(seen=pl.len())
    reach = pl.min_horizontal(pl.col("seen").fill_null(0) + length, pl.lit(popular.height))
    return (
        targets.join(counts, on="list", how="left", maintain_order="left")
        .select("list", "split", "user", place=pl.int_ranges(0, reach, dtype=pl.UInt32))
        .explode("place")
        .join(seen, on=["list", "place"], how="anti", maintain_order="left")
        .join(popular, on="place", maintain_order="left")
    )
