"""What is to be found in the rankings, whether they fit it, and at which rank it stands."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from tessera.errors import DataError

_SPLITS: Final = ("valid", "test")

#: A shorter list cuts HR@10 and NDCG@10, the longest cut-offs that are measured.
ENOUGH: Final = 10


def of_some_users(table: pl.DataFrame, *, most: int) -> pl.DataFrame:
    """Return the rows of table whose user is one of at most so many, taken at even distances of all."""
    everyone = table["user"].unique().sort()
    chosen = everyone.gather(np.linspace(0, len(everyone) - 1, min(most, len(everyone))).astype(np.int64))
    return table.filter(pl.col("user").is_in(chosen.implode()))


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


def check_rankings(rankings: pl.DataFrame, targets: pl.DataFrame, *, items: int, reserved: Sequence[str]) -> None:
    """Raise DataError where rankings do not belong to the targets, or to the catalogue of items 0..items-1.

    No modality may bear a reserved name, one that stands for something else beside the modalities.
    """
    modalities = rankings.get_column("modality").unique().to_list()
    for name in set(modalities) & set(reserved):
        raise DataError(f"rankings: expected modalities named otherwise than {', '.join(reserved)}, found {name!r}")
    where = ("split", "user", "modality", "item")
    strangers = rankings.filter(pl.col("item") >= items).select(where)
    if strangers.height:
        split, user, modality, item = strangers.row(0)
        raise DataError(
            f"rankings: expected items of the catalogue, 0 to {items - 1}, found {item} "
            f"({modality}, {split} user {user})"
        )
    pairs = rankings.filter(pl.col("rank") == 1).select("split", "user").unique()
    without = pairs.join(targets, on=["split", "user"], how="anti").sort("split", "user")
    if without.height:
        split, user = without.row(0)
        raise DataError(
            f"rankings: expected users with a target, found {without.height} without, as user {user} ({split})"
        )


def doubts(rankings: pl.DataFrame, targets: pl.DataFrame) -> list[str]:
    """Return a sentence for each split and modality where users have no ranking, or one too short for HR@10."""
    users = targets.group_by("split").agg(users=pl.len())
    lists = rankings.group_by("split", "modality").agg(
        ranked=(pl.col("rank") == 1).sum(), enough=(pl.col("rank") == ENOUGH).sum()
    )
    every = users.join(rankings.select("modality").unique(), how="cross")
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


def target_ranks(rankings: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Return the rank of each target in each ranking, null where it is not in the list.

    rankings has the columns split, user, modality, rank and item; targets is as find_targets gives it. The result has
    the columns split, user, ranking (the modality), item, rank, target_frequency and history_length, in the order of
    the rankings' first appearance, split and user. A user without a list has a null rank in it.

    Raises DataError where a list holds a target twice.
    """
    found = rankings.join(targets, on=["split", "user", "item"]).select(
        "split", "user", ranking="modality", rank="rank"
    )
    if found.select("split", "user", "ranking").is_duplicated().any():
        raise DataError("rankings: expected an item once in a list, found a target twice")
    names = rankings.select(ranking=pl.col("modality").unique(maintain_order=True))
    return (
        names.join(targets, how="cross", maintain_order="left_right")
        .join(found, on=["split", "user", "ranking"], how="left", maintain_order="left")
        .select("split", "user", "ranking", "item", "rank", "target_frequency", "history_length")
    )
