"""A run of a small shop with every kind of ranking in its ensemble."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tessera.using.recommender import Recommender
from tests.pipeline_runs import MEMBERS, SMALL, STAGES, run_stages

#: A title that would take hold of a terminal or of rich.
HOSTILE = "<b>Zorp</b> [red]x[/] \x1b[31m"


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return run_stages(STAGES, tmp_path_factory.mktemp("run"), SMALL | MEMBERS)


@pytest.fixture(scope="session")
def recommender(run) -> Recommender:
    return Recommender.load(run)


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """The run, to be changed."""
    return shutil.copytree(run, tmp_path / "copied")


@pytest.fixture
def new_items(run, tmp_path) -> Path:
    """Four items: with text and picture, the same text without a picture, a picture alone, and one that is there."""
    items = pl.read_parquet(run / "data/filter_reviews/items.parquet")
    pictures = pl.read_parquet(run / "data/fetch_images/images.parquet").drop_nulls("picture")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "one.jpg").write_bytes(pictures["picture"][0])
    told = items.select("title", "description", "categories").row(0, named=True)
    rows = [
        {"item": "NEW1", **told, "image": "one.jpg"},
        {"item": "NEW2", **told},
        {"item": "NEW3", "title": HOSTILE, "image": "one.jpg"},
        {"item": items["key"][5], "title": "another title"},
    ]
    (tmp_path / "new" / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "new" / "items.jsonl"
