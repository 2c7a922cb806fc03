"""The thirteen stages one after the other, with the command lines of dvc.yaml, on a shop of a few shoppers."""

import importlib
import shlex
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from tessera.artifacts import read_json, read_table
from tessera.schemas import IDS, INTERACTIONS, RANKINGS

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
SMALL = {
    "dataset.users": 120,
    "dataset.items": 60,
    "device": "cpu",
    "text.dimensions": 16,
    "image.dimensions": 16,
    "pseudo.clusters": 6,
    "quant.codebook_size": 8,
    "quant.hidden": [16],
    "quant.latent_dim": 8,
    "quant.epochs": 5,
    "t5.d_model": 16,
    "t5.d_ff": 16,
    "t5.epochs": 2,
    "decode.beams": 10,
    "eval.resamples": 50,
    "report.examples": 2,
}
MEASURES = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}


def run_all(folder: Path, params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, stage in STAGES.items():
        app = typer.Typer()
        app.command()(importlib.import_module(f"stages.{name}").main)
        _, _, *options = shlex.split(stage["cmd"])
        done = CliRunner().invoke(app, [*options, "--params", str(params)], catch_exceptions=False)
        assert done.exit_code == 0, f"{name}: {done.output}"


def test_macrec(tmp_path, params_file, monkeypatch):
    run_all(tmp_path, params_file(SMALL), monkeypatch)
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


def test_tiger_uses_text_alone_and_leaves_the_graph_of_stages_as_it_is(tmp_path, params_file, monkeypatch):
    tiger = {
        "system": "tiger",
        "modalities": ["text"],
        "quant.levels": 3,
        "quant.lambda_con": 0.0,
        "quant.lambda_align": 0.0,
        "ids.collisions": "extra_code",
        "corpus.tasks": ["history text -> text"],
        "t5.lambda_implicit": 0.0,
    }
    run_all(tmp_path, params_file(SMALL | tiger), monkeypatch)
    assert set(read_json(tmp_path / "metrics/evaluate.json")) == {"text", "popularity", "final", "valid"}
    ids = read_table(tmp_path / "data/resolve_collisions/ids.parquet", IDS)
    assert ids["modality"].unique().to_list() == ["text"]
    assert ids["codes"].list.len().unique().to_list() == [4]
