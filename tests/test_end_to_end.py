"""The stages one after the other, with the command lines of dvc.yaml, on a shop of a few shoppers."""

import pytest

from tessera.artifacts import read_json, read_table
from tessera.schemas import IDS, INTERACTIONS, RANKINGS
from tests.pipeline_runs import SMALL, STAGES, run_stage, run_stages

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


NO_MODALITIES = {"modalities": [], "corpus.tasks": []}


@pytest.mark.parametrize(("name", "encoder"), [("itemknn", "none"), ("sasrec", "sasrec"), ("bert4rec", "bert4rec")])
def test_systems_without_semantic_ids_take_the_same_road(tmp_path, name, encoder):
    system = {"system": name, "collaborative.members": [name], "sequence.encoder": encoder}
    run_stages(STAGES, tmp_path, SMALL | NO_MODALITIES | system)
    measured = read_json(tmp_path / "metrics/evaluate.json")
    assert set(measured) == {name, "popularity", "final", "valid"}
    assert measured["final"] == measured[name]
    for table, schema in (("resolve_collisions/ids", IDS), ("rank_items/rankings", RANKINGS)):
        assert read_table(tmp_path / f"data/{table}.parquet", schema).is_empty()
    assert list((tmp_path / "metrics/plots/train_t5").rglob("*.tsv")), "git keeps no empty folder"
    assert "semantic IDs" not in (tmp_path / "report/index.html").read_text()
    assert "Modalities none" in (tmp_path / "metrics/report.md").read_text()
    for stage in ("rank_collaborative", "evaluate", "write_report"):
        run_stage(stage, tmp_path, SMALL | NO_MODALITIES | {"system": "popularity"})
    measured = read_json(tmp_path / "metrics/evaluate.json")
    assert set(measured) == {"popularity", "final", "valid"}
    assert measured["final"] == measured["popularity"]


def test_a_ranking_without_ids_is_fused_with_the_others(tmp_path):
    run_stages(STAGES, tmp_path, SMALL | {"collaborative.members": ["itemknn"]})
    measured = read_json(tmp_path / "metrics/evaluate.json")
    assert set(measured) == {"text", "image", "itemknn", "ensemble", "popularity", "final", "valid"}
    assert measured["final"] == measured["ensemble"]
