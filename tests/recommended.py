"""Whether what the library recommends is what the pipeline ranked."""

from pathlib import Path

import numpy as np
import polars as pl

from tessera.artifacts import read_table
from tessera.schemas import INTERACTIONS, RANKINGS
from tessera.using.recommender import Recommender

BEFORE = {"valid": ["train"], "test": ["train", "valid"]}
COLUMNS = ["user", "rank", "item", "score"]


def histories(run: Path, keys: pl.Series, *, split: str) -> list[list[str]]:
    """The history before each user's target in split, in the order of the users: the target's own user is its place."""
    interactions = read_table(run / "data/filter_reviews/interactions.parquet", INTERACTIONS).sort("user", "position")
    lists = interactions.filter(pl.col("split").is_in(BEFORE[split])).group_by("user", maintain_order=True).agg("item")
    assert lists["user"].to_list() == list(range(lists.height))
    return [keys.gather(items).to_list() for items in lists["item"]]


def ranked(run: Path, keys: pl.Series, *, split: str, k: int) -> pl.DataFrame:
    """What the pipeline recommends in split."""
    table = read_table(run / "data/evaluate/ensemble.parquet", RANKINGS).filter(pl.col("rank") <= k, split=split)
    return table.with_columns(item=keys.gather(table["item"])).select(COLUMNS)


def assert_as_the_pipeline(recommender: Recommender, run: Path) -> None:
    """Lists and scores of all users are those of the run, bit by bit."""
    keys, k = recommender.shop.items["key"], recommender.shop.params.decode.beams
    for split in BEFORE:
        found = recommender.table(histories(run, keys, split=split), k=k)
        assert found.select(COLUMNS).equals(ranked(run, keys, split=split, k=k))


def assert_as_the_pipeline_one_at_a_time(recommender: Recommender, run: Path) -> None:
    """Lists of each user alone are those of the run, and so are scores but for the rounding of their last bit."""
    keys = recommender.shop.items["key"]
    expected = ranked(run, keys, split="test", k=10)
    alone = [recommender.table([history], k=10) for history in histories(run, keys, split="test")]
    found = pl.concat(table.with_columns(user=pl.lit(user, pl.UInt32)) for user, table in enumerate(alone))
    assert found.select(COLUMNS[:-1]).equals(expected.select(COLUMNS[:-1]))
    np.testing.assert_allclose(found["score"], expected["score"], atol=2e-6)
