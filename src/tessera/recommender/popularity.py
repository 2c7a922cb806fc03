"""The floor that every system has to beat: everyone is recommended what sold best."""

from typing import Final

import polars as pl

#: The name under which this ranking stands beside those of the modalities.
POPULARITY: Final = "popularity"


def rank_by_popularity(
    targets: pl.DataFrame, popular: pl.DataFrame, *, length: int, seen: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return for each of targets (split, user, history_length) the `length` most popular items.

    popular is what items_by_popularity gives. Where interactions (user, item, position) are given as seen, the items
    that the user had before the target are left out and the next popular ones move up.

    The result has the columns split, user, modality ("popularity"), rank, item and score (the number of training
    interactions), sorted by split, user and rank. A list is shorter than `length` only where there are no more items.
    """
    lists = targets.select("split", "user", target="history_length").sort("split", "user").with_row_index("list")
    if seen is None:
        offered = lists.join(popular.head(length), how="cross", maintain_order="left_right")
    else:
        offered = _unseen(seen, lists, popular, length=length)
    return (
        offered.with_columns(rank=pl.int_range(1, pl.len() + 1).over("list"))
        .filter(pl.col("rank") <= length)
        .select("split", "user", pl.lit(POPULARITY).alias("modality"), pl.col("rank").cast(pl.UInt16), "item", "score")
    )


def items_by_popularity(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return each item of interactions (item, split), its number of training interactions as score, and its place.

    Places are from 0, the most popular first; equally popular items stand in the order of their index.
    """
    return (
        interactions.group_by("item")
        .agg(score=(pl.col("split") == "train").sum().cast(pl.Float32))
        .sort("score", "item", descending=[True, False])
        .with_columns(place=pl.int_range(pl.len(), dtype=pl.UInt32))
    )


def _unseen(interactions: pl.DataFrame, lists: pl.DataFrame, popular: pl.DataFrame, *, length: int) -> pl.DataFrame:
    """Return the most popular items that each of lists (list, split, user, target) has room for: unseen before target.

    They are at least `length` where there are so many. A user who has seen n items finds `length` others among the
    first `length + n` places.
    """
    seen = (
        lists.join(interactions.select("user", "item", "position"), on="user")
        .filter(pl.col("position") < pl.col("target"))
        .join(popular.select("item", "place"), on="item")
        .select("list", "place")
    )
    counts = seen.group_by("list").agg(seen=pl.len())
    reach = pl.min_horizontal(pl.col("seen").fill_null(0) + length, pl.lit(popular.height))
    return (
        lists.join(counts, on="list", how="left", maintain_order="left")
        .select("list", "split", "user", place=pl.int_ranges(0, reach, dtype=pl.UInt32))
        .explode("place")
        .join(seen, on=["list", "place"], how="anti", maintain_order="left")
        .join(popular, on="place", maintain_order="left")
    )
