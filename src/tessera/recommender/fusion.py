"""One ranking out of several: how the rankings of a user's modalities become what the system recommends."""

from typing import Final, Literal

import polars as pl

from tessera.errors import DataError

#: The name under which the fused ranking stands beside those of the modalities.
ENSEMBLE: Final = "ensemble"

#: Users fused together: bounds the memory whatever the number of users.
USERS_AT_ONCE: Final = 100_000

Rule = Literal["mean", "mean_bonus", "best"]

# An item's score, from what `_fused` gathers about the lists that hold it and about all lists of the user.
_SCORES: Final[dict[Rule, pl.Expr]] = {
    "mean": (pl.col("above_floor") + pl.col("floors")) / pl.col("lists"),
    "mean_bonus": pl.col("mean_score") + pl.col("holding") - 1,
    "best": pl.col("best_score"),
}


def fuse(rankings: pl.DataFrame, *, rule: Rule) -> pl.DataFrame:
    """Return one ranking for each split and user, as modality "ensemble", out of one for each modality.

    rankings has the columns split, user, modality, rank, item, score; score is a mean log-probability. The result
    has the same, sorted by split, user and rank; its score is what the rule gives:

    - `mean` (MACRec, arXiv 2511.15122, inference): the mean of the item's scores over the user's lists. The paper
      does not say what an item scores in a list that it is absent from; here it is that list's lowest score, the
      bound that the item did not pass. Of lists {a: -1, b: -3} and {b: -1, c: -2}, a gets -1.5, b -2, c -2.5.
    - `mean_bonus` (released code of MQL4GRec and MACRec): the mean over the lists that hold the item, and 1 more
      for each of them after the first. Of the lists above a gets -1, b -1, c -2.
    - `best`: the highest of its scores. Of the lists above a gets -1, b -1, c -2.

    A fused ranking is as long as the longest of the user's lists; equal scores stand in the order of their items.

    Raises DataError where a list holds an item twice.
    """
    blocks = rankings.with_columns(block=pl.col("user") // USERS_AT_ONCE)
    parts = blocks.partition_by("split", "block", as_dict=True)
    fused = [
        _fused(parts[split, block], rule=rule).with_columns(split=pl.lit(split), modality=pl.lit(ENSEMBLE))
        for split, block in sorted(parts)
    ]
    if not fused:
        return rankings.clear()
    return pl.concat(fused).select(rankings.columns).cast(rankings.schema)


def _fused(rankings: pl.DataFrame, *, rule: Rule) -> pl.DataFrame:
    """Return the fused rankings of users of one split, as user, item, rank and score.

    Sums are in double precision, where those of single-precision scores are exact: their order cannot matter.
    """
    lists = rankings.partition_by("modality")
    return (
        pl.concat([_entries(ranking) for ranking in lists])
        .sort("user_item")
        .group_by("user_item", maintain_order=True)
        .agg(
            pl.col("user", "item").first(),
            holding=pl.len(),
            above_floor=(pl.col("score") - pl.col("floor")).sum(),
            mean_score=pl.col("score").mean(),
            best_score=pl.col("score").max(),
        )
        .join(_bounds(lists), on="user")
        .select("user", "item", "longest", score=_SCORES[rule])
        .sort("user", "score", "item", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("user"))
        .filter(pl.col("rank") <= pl.col("longest"))
    )


def _bounds(lists: list[pl.DataFrame]) -> pl.DataFrame:
    """Return for each user how many lists there are, the sum of their lowest scores, and the longest's length."""
    score = pl.col("score").cast(pl.Float64)
    each = pl.concat([ranking.group_by("user").agg(floor=score.min(), length=pl.len()) for ranking in lists])
    return each.group_by("user").agg(lists=pl.len(), floors=pl.col("floor").sum(), longest=pl.col("length").max())


def _entries(ranking: pl.DataFrame) -> pl.DataFrame:
    """Return one modality's entries with their list's lowest score and `user_item`, both as one sortable integer."""
    entries = ranking.select(
        "user",
        "item",
        pl.col("score").cast(pl.Float64),
        floor=pl.col("score").cast(pl.Float64).min().over("user"),
        user_item=pl.col("user").cast(pl.UInt64) * 2**32 + pl.col("item"),
    )
    repeats = entries.get_column("user_item").sort().diff().eq(0)
    if repeats.any():
        user, item = entries.filter(pl.col("user_item").is_duplicated()).select("user", "item").row(0)
        split, modality = ranking.select("split", "modality").row(0)
        raise DataError(
            f"rankings: expected an item once in a list, found item {item} twice in {modality} of {split} user {user}"
        )
    return entries
