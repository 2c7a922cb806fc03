"""What is to be found in the rankings, whether they fit it, and at which rank it stands."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl

from tessera.errors import DataError

_SPLITS: Final = ("valid", "test")

#: A shorter list cuts HR@10 and NDCG@10, the longest cut-offs that are measured.
ENOUGH: Final = 10


def of_some_users(table: pl.LazyFrame, *, most: int) -> pl.DataFrame:
    """Return the rows of table whose user is one of at most so many, taken at even distances of all."""
    everyone = table.select(pl.col("user").unique()).collect(engine="streaming").to_series().sort()
    chosen = everyone.gather(np.linspace(0, len(everyone) - 1, min(most, len(everyone))).astype(np.int64))
    return table.filter(pl.col("user").is_in(chosen.implode())).collect(engine="streaming")


def parts_of(targets: pl.DataFrame, *, most: int) -> Iterator[pl.DataFrame]:
    """Yield targets (split, user, ...), sorted by these, in parts of one split and at most so many users."""
    for of_split in targets.partition_by("split", maintain_order=True):
        yield from of_split.iter_slices(most)


def lists_of(rankings: pl.LazyFrame, part: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of rankings that belong to a part of the targets, all of whose users between two are in it."""
    first, last = part["user"].min(), part["user"].max()
    mine = (pl.col("split") == part["split"][0]) & pl.col("user").is_between(pl.lit(first), pl.lit(last))
    return rankings.filter(mine).collect(engine="streaming")


def find_targets(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return what is to be found: split, user, item, target_frequency, history_length, sorted by split and user.

    interactions has the columns user, item, position and split. target_frequency is the number of training
    interactions of the target, 0 for a cold item; history_length is the number of items before it in the user's order.

    Raises DataError where there is no target in a split, or a user has two.
    """
    frequencies = (
        interactions.filter(pl.col("split") == "train").group_by("item").agg(target_frequency=pl.len().cast(pl.UInt32))
    )
    targets = (
        interactions.filter(pl.col("split").is_in(_SPLITS))
        .join(frequencies, on="item", how="left")
        .select("split", "user", "item", pl.col("target_frequency").fill_null(0), history_length="position")
        .sort("split", "user")
    )
    for split in _SPLITS:
        users = targets.filter(pl.col("split") == split).get_column("user")
        if users.is_empty():
            raise DataError(f"interactions: expected a {split} target for each user, found none")
        if users.n_unique() < len(users):
            user = users.filter(users.is_duplicated())[0]
            raise DataError(f"interactions: expected one {split} target a user, found several of user {user}")
    return targets


def check_rankings(rankings: pl.LazyFrame, targets: pl.DataFrame, *, items: int, reserved: Sequence[str]) -> None:
    """Raise DataError where rankings do not belong to the targets, or to the catalogue of items 0..items-1.

    No modality may bear a reserved name, one that stands for something else beside the modalities.
    """
    for name in set(names_of(rankings)) & set(reserved):
        raise DataError(f"rankings: expected modalities named otherwise than {', '.join(reserved)}, found {name!r}")
    where = ("split", "user", "modality", "item")
    strangers = rankings.filter(pl.col("item") >= items).select(where).head(1).collect(engine="streaming")
    if strangers.height:
        split, user, modality, item = strangers.row(0)
        raise DataError(
            f"rankings: expected items of the catalogue, 0 to {items - 1}, found {item} "
            f"({modality}, {split} user {user})"
        )
    pairs = rankings.filter(pl.col("rank") == 1).select("split", "user").unique()
    strange = pairs.join(targets.lazy(), on=["split", "user"], how="anti")
    without = strange.collect(engine="streaming").sort("split", "user")
    if without.height:
        split, user = without.row(0)
        raise DataError(
            f"rankings: expected users with a target, found {without.height} without, as user {user} ({split})"
        )


def names_of(rankings: pl.LazyFrame) -> list[str]:
    """Return the modalities of rankings in the order of their first appearance."""
    names = rankings.select(pl.col("modality").unique(maintain_order=True))
    return names.collect(engine="streaming").to_series().to_list()


def doubts(rankings: pl.LazyFrame, targets: pl.DataFrame) -> list[str]:
    """Return a sentence for each split and modality where users have no ranking, or one too short for HR@10."""
    users = targets.group_by("split").agg(users=pl.len())
    firsts, tenths = ((pl.col("rank") == rank).sum() for rank in (1, ENOUGH))
    counted = rankings.group_by("split", "modality").agg(ranked=firsts, enough=tenths)
    lists = counted.collect(engine="streaming")
    every = users.join(lists.select("modality").unique(), how="cross")
    counts = every.join(lists, on=["split", "modality"], how="left").fill_null(0).sort("split", "modality")
    sentences = []
    for split, total, modality, ranked, enough in counts.iter_rows():
        if ranked < total:
            sentences.append(
                f"{modality}: {total - ranked} of {total} {split} users have no ranking and count as misses"
            )
        if enough < ranked:
            sentences.append(
                f"{modality}: {ranked - enough} of {ranked} {split} rankings hold fewer than {ENOUGH} items; "
                f"hr@{ENOUGH} is cut there"
            )
    return sentences


def found_targets(rankings: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Return the rank of each target where a list holds it: split, user, ranking (the modality) and rank.

    rankings has the columns split, user, modality, rank and item; targets is as find_targets gives it, or some of it.

    Raises DataError where a list holds a target twice.
    """
    found = rankings.join(targets, on=["split", "user", "item"]).select(
        "split", "user", ranking="modality", rank="rank"
    )
    if found.select("split", "user", "ranking").is_duplicated().any():
        raise DataError("rankings: expected an item once in a list, found a target twice")
    return found


def target_ranks(found: pl.DataFrame, targets: pl.DataFrame, *, names: Sequence[str]) -> pl.DataFrame:
    """Return the rank of each target in each ranking of names, null where its list, if there is one, does not hold it.

    found is what found_targets gives of all rankings, targets what find_targets gives. The result has the columns
    split, user, ranking, item, rank, target_frequency and history_length, in the order of names, split and user.
    """
    return (
        pl.DataFrame({"ranking": names}, schema={"ranking": pl.String})
        .join(targets, how="cross", maintain_order="left_right")
        .join(found, on=["split", "user", "ranking"], how="left", maintain_order="left")
        .select("split", "user", "ranking", "item", "rank", "target_frequency", "history_length")
    )
