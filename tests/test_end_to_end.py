"""The thirteen stages one after the other, with the command lines of dvc.yaml, on a shop of a few shoppers."""

from tessera.artifacts import read_json, read_table
from tessera.schemas import IDS, INTERACTIONS, RANKINGS
from tests.pipeline_runs import SMALL, STAGES, run_stages

MEASURES = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}


def test_macrec(tmp_path):
    run_stages(STAGES, tmp_path, SMALL)
    measured = read_json(tmp_path / "metrics/evaluate.json")
    assert set(measured) == {"text", "image", "ensemble", "popularity", "final", "valid"}
    assert all(set(measured[name]) == MEASURES for name in set(measured) - {"valid"})
    assert set(measured["valid"]) == {"text", "image", "ensemble", "popularity", "final"}
    assert measured["final"] == measured["ensemble"]
    collisions = read_json(tmp_path / "metrics/resolve_collisions.json")
    assert {collisions[modality]["collision_rate_after"] for modality in ("text", "image")} == {0.0}
    filtered = read_json(tmp_path / "metrics/filter_reviews.json")
    assert {"users", "items", "interactions", "sparsity", "average_length", "tie_rate"} <= set(filtered)
    users = read_table(tmp_path / "data/filter_reviews/interactions.parquet", INTERACTIONS)["user"].n_unique()
    rankings = read_table(tmp_path / "data/rank_items/rankings.parquet", RANKINGS)
    assert rankings.filter(split="test", modality="image")["user"].n_unique() == users
    assert "<html" in (tmp_path / "report/index.html").read_text()


def test_tiger_uses_text_alone_and_leaves_the_graph_of_stages_as_it_is(tmp_path):
    run_stages(STAGES, tmp_path, SMALL | {"system": "tiger"})
    assert set(read_json(tmp_path / "metrics/evaluate.json")) == {"text", "popularity", "final", "valid"}
    ids = read_table(tmp_path / "data/resolve_collisions/ids.parquet", IDS)
    assert ids["modality"].unique().to_list() == ["text"]
    assert ids["codes"].list.len().unique().to_list() == [4]
