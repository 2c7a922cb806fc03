"""One ranking out of several: how the rankings of a user's modalities become what the system recommends."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import polars as pl

from tessera.errors import DataError
from tessera.schemas import WEIGHTS

#: The name under which the fused ranking stands beside those of the modalities.
ENSEMBLE: Final = "ensemble"

#: Users whose lists are in memory and fused together: bounds the memory whatever the number of users.
USERS_AT_ONCE: Final = 100_000

#: A user and an item are one integer, the user above so many bits.
USER_BITS: Final = 32

Rule = Literal["mean", "mean_bonus", "best", "learned"]


class Weight(NamedTuple):
    """What an item gets for standing in a ranking."""

    score: float  # for each unit of its score above the lowest of the list
    held: float  # for being in the list at all


#: A user and an item as one integer, which sorts by user and item.
USER_ITEM: Final = pl.col("user").cast(pl.UInt64) * 2**USER_BITS + pl.col("item")

# How far an item is behind the best of the user's lists: exponentials of it are at most 1.
_BEHIND: Final = pl.col("weighted") - pl.col("weighted").max().over("user")

# An item's score, from what `_fused` gathers about the lists that hold it and about all lists of the user.
_SCORES: Final[dict[Rule, pl.Expr]] = {
    "mean": (pl.col("weighted") + pl.col("floors")) / pl.col("lists"),
    "mean_bonus": pl.col("mean_score") + pl.col("holding") - 1,
    "best": pl.col("best_score"),
    "learned": _BEHIND - _BEHIND.exp().sum().over("user").log(),
}

_UNWEIGHTED: Final = Weight(score=1.0, held=0.0)


def fuse(rankings: pl.DataFrame, *, rule: Rule, cut: int, weights: Mapping[str, Weight] | None = None) -> pl.DataFrame:
    """Return one ranking for each split and user, as modality "ensemble", out of one for each modality.

    rankings has the columns split, user, modality, rank, item, score; score is a mean log-probability. cut is how many
    items a list holds if there are so many for it (decode.beams). The result has the same columns, sorted by split,
    user and rank; its score is what the rule gives:

    - `mean` (MACRec, arXiv 2511.15122, inference): the mean of the item's scores over the user's lists. The paper
      does not say what an item scores in a list that it is absent from; here it is that list's lowest score, the
      bound that the item did not pass. Of lists {a: -1, b: -3} and {b: -1, c: -2}, a gets -1.5, b -2, c -2.5. A list
      shorter than cut holds all that there is for it, and its end is no bound: what it does not hold has the lowest
      score of all of the user's lists. With a cut of 2, of {a: -1, b: -3} and {b: -1}, a gets (-1 - 3) / 2 = -2.
    - `mean_bonus` (released code of MQL4GRec and MACRec): the mean over the lists that hold the item, and 1 more
      for each of them after the first. Of the lists above a gets -1, b -1, c -2.
    - `best`: the highest of its scores. Of the lists above a gets -1, b -1, c -2.
    - `learned` (`fusion_fitting.learn_weights`): the log-share, among all items of the user's lists, of the exponential
      of a sum over the lists that hold the item: the list's weight `held`, and its weight `score` times how far the
      item's score is above the list's lowest. With 1 and 0.5 for both lists above, the sums are a 2.5, b 2, c 0.5.

    A fused ranking is as long as the longest of the user's lists; equal scores stand in the order of their items.
    weights holds those of every modality where the rule is `learned`, and is not read otherwise.

    Raises DataError where a list holds an item twice, or a modality has no weight.
    """
    known = (weights or {}) if rule == "learned" else {}
    unknown = sorted(set(rankings["modality"].unique()) - set(known))
    if rule == "learned" and unknown:
        raise DataError(
            f"fusion: expected a weight of each ranking that is fused, found none of {', '.join(unknown)} "
            f"among those of {', '.join(sorted(known)) or 'none'}"
        )
    fused = [rankings.clear()]
    for split in rankings["split"].unique().sort():
        of_split = rankings.filter(pl.col("split") == split)
        block = of_split["user"] // USERS_AT_ONCE
        for number in block.unique().sort():
            part = _fused(of_split.filter(block == number), rule, known, cut)
            named = part.with_columns(split=pl.lit(split), modality=pl.lit(ENSEMBLE))
            fused.append(named.select(rankings.columns).cast(rankings.schema))
    return pl.concat(fused)


def weights_table(weights: Mapping[str, Weight]) -> pl.DataFrame:
    """Return weights as a table of WEIGHTS, sorted by modality."""
    rows = [(name, *weights[name]) for name in sorted(weights)]
    return pl.DataFrame(rows, schema=WEIGHTS, orient="row")


def weights_in(table: pl.DataFrame) -> dict[str, Weight]:
    """Return the weights in a table of WEIGHTS."""
    return {name: Weight(score, held) for name, score, held in table.iter_rows()}


def list_entries(ranking: pl.DataFrame) -> pl.DataFrame:
    """Return one ranking's entries: user, item, score, the lowest score of the user's list as `floor`, and `user_item`.

    user_item is USER_ITEM; scores are doubles.

    Raises DataError where a list holds an item twice.
    """
    score = pl.col("score").cast(pl.Float64)
    entries = ranking.select(
        "user",
        "item",
        score,
        floor=score.min().over("user"),
        user_item=USER_ITEM,
    )
    repeats = entries.get_column("user_item").sort().diff().eq(0)
    if repeats.any():
        user, item = entries.filter(pl.col("user_item").is_duplicated()).select("user", "item").row(0)
        split, modality = ranking.select("split", "modality").row(0)
        raise DataError(
            f"rankings: expected an item once in a list, found item {item} twice in {modality} of {split} user {user}"
        )
    return entries


def _fused(rankings: pl.DataFrame, rule: Rule, weights: Mapping[str, Weight], cut: int) -> pl.DataFrame:
    """Return the fused rankings of users of one split, as user, item, rank and score.

    Sums are in double precision, and taken in the order of the modalities' names.
    """
    lists = [ranking for _, ranking in sorted(rankings.partition_by("modality", as_dict=True).items())]
    entries = [_weighted(ranking, weights) for ranking in lists]
    bounds = _bounds(entries, cut=cut)
    if rule == "mean":
        entries = [_above_bounds(each, bounds.filter(list=place)) for place, each in enumerate(entries)]
    of_users = bounds.group_by("user").agg(lists=pl.len(), floors=pl.col("bound").sum(), longest=pl.col("length").max())
    return (
        pl.concat(entries)
        .sort("user_item", maintain_order=True)
        .group_by("user_item", maintain_order=True)
        .agg(
            pl.col("user", "item").first(),
            holding=pl.len(),
            weighted=pl.col("weighted").sum(),
            mean_score=pl.col("score").mean(),
            best_score=pl.col("score").max(),
        )
        .join(of_users, on="user")
        .select("user", "item", "longest", score=_SCORES[rule])
        .sort("user", "score", "item", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("user"))
        .filter(pl.col("rank") <= pl.col("longest"))
    )


def _bounds(lists: list[pl.DataFrame], *, cut: int) -> pl.DataFrame:
    """Return for each of lists of entries, by its place, and each of its users: list, user, floor, bound and length.

    floor is the list's lowest score, and bound what an item has at most that is absent from the list: floor, or, where
    the list is shorter than cut, the lowest of the user's.
    """
    each = pl.concat(
        entries.group_by("user", maintain_order=True).agg(pl.col("floor").first(), list=pl.lit(place), length=pl.len())
        for place, entries in enumerate(lists)
    )
    lowest = pl.col("floor").min().over("user")
    bound = pl.when(pl.col("length") < cut).then(lowest).otherwise("floor")
    return each.select("list", "user", "floor", "length", bound=bound)


def _above_bounds(entries: pl.DataFrame, bounds: pl.DataFrame) -> pl.DataFrame:
    """Return the entries of a list with what they weigh counted from bounds instead of from its lowest score."""
    lower = bounds.filter(pl.col("bound") < pl.col("floor")).select("user", below=pl.col("floor") - pl.col("bound"))
    if lower.is_empty():
        return entries
    counted = entries.join(lower, on="user", how="left", maintain_order="left")
    return counted.with_columns(pl.col("weighted") + pl.col("below").fill_null(0)).drop("below")


def _weighted(ranking: pl.DataFrame, weights: Mapping[str, Weight]) -> pl.DataFrame:
    """Return the entries of one modality's ranking with what its weight makes of each."""
    weight = weights.get(ranking["modality"][0], _UNWEIGHTED)
    above = pl.col("score") - pl.col("floor")
    return list_entries(ranking).with_columns(weighted=above * weight.score + weight.held)
