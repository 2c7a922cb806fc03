"""All stages on a shop of a few shoppers whose data were made worse in every way at once."""

import json

import polars as pl
import pytest

from tests.pipeline_runs import SMALL, STAGES, run_stages

WORSE = {
    "filter.split": "time",
    "filter.cold_items": 0.2,
    "filter.ties": "reverse_file_order",
    "text.missing": 0.5,
    "image.missing": 0.5,
    "image.swapped": 0.3,
    "text.noise": 0.5,
    "sequence.encoder": "sasrec",
    "collaborative.members": ["sasrec", "itemknn"],
    "decode.exclude_seen": True,
}


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    return run_stages(STAGES, tmp_path_factory.mktemp("worse"), SMALL | WORSE)


def test_every_item_has_an_id_even_one_that_lost_text_and_picture(worse):
    items = pl.read_parquet(worse / "data/filter_reviews/items.parquet")
    lost = [pl.read_parquet(worse / f"data/embed_{name}/vectors.parquet") for name in ("text", "images")]
    assert (~lost[0]["present"] & ~lost[1]["present"]).any()
    ids = pl.read_parquet(worse / "data/resolve_collisions/ids.parquet")
    for modality in ("text", "image"):
        of_modality = ids.filter(modality=modality)
        assert of_modality["item"].sort().equals(items["item"])
        assert of_modality["codes"].n_unique() == items.height


def test_nothing_that_a_user_had_before_his_target_is_recommended(worse):
    interactions = pl.read_parquet(worse / "data/filter_reviews/interactions.parquet")
    ranked = pl.concat(
        pl.read_parquet(worse / f"data/{name}/rankings.parquet") for name in ("rank_items", "rank_collaborative")
    )
    targets = interactions.select("user", "split", target="position").filter(pl.col("split").is_in(["valid", "test"]))
    seen = (
        targets.join(interactions.drop("split"), on="user")
        .filter(pl.col("position") < pl.col("target"))
        .select("split", "user", "item")
    )
    assert set(ranked["modality"]) == {"text", "image", "sasrec", "itemknn"}
    assert ranked.join(seen, on=["split", "user", "item"]).is_empty()
    assert ranked.join(targets, on=["split", "user"], how="anti").is_empty()
    rest = interactions.filter(split="rest").select("user", "item")
    assert not seen.join(rest, on=["user", "item"]).is_empty(), "some of it is in neither split"


def test_cold_and_warm_targets_are_measured_apart_and_cold_items_are_recommended(worse):
    measured = json.loads((worse / "metrics/evaluate.json").read_text())
    assert measured["cold"].keys() == measured["warm"].keys() == measured["valid"].keys()
    interactions = pl.read_parquet(worse / "data/filter_reviews/interactions.parquet")
    ranked = pl.read_parquet(worse / "data/rank_items/rankings.parquet")
    trained = interactions.filter(split="train")["item"].unique()
    assert not ranked.filter(~pl.col("item").is_in(trained.implode())).is_empty()
    assert (worse / "report/index.html").is_file()
