"""The stage that ranks without semantic IDs, from interactions to rankings."""

import json
import os
import subprocess
import sys

import pytest

from stages.rank_collaborative import main
from tessera.artifacts import read_table, write_table
from tessera.params import load_params
from tessera.recommender.corpus import histories
from tessera.recommender.factors import AlsSettings, als_of, als_scores
from tessera.recommender.strengths import strengths_in
from tessera.schemas import INTERACTIONS, RANKINGS, STRENGTHS, VECTORS
from tests.pipeline_runs import ROOT
from tests.recommender.conftest import circle_interactions
from tests.recommender.dense import strength_scores

USERS, ITEMS = 30, 12
SHOP = circle_interactions(users=USERS, items=ITEMS, length=7, seed=0)


@pytest.fixture
def rank(tmp_path, params_file):
    """Return `rank(changes)`, which runs the stage and gives its rankings and metrics."""

    def call(changes=None):
        write_table(tmp_path / "interactions.parquet", SHOP, INTERACTIONS)
        main(
            interactions=tmp_path / "interactions.parquet",
            encoder=tmp_path / "none",
            rankings=tmp_path / "rankings.parquet",
            factors=tmp_path / "factors.parquet",
            strengths=tmp_path / "strengths.parquet",
            metrics=tmp_path / "metrics.json",
            params_file=params_file({"collaborative.members": ["itemknn"], "decode.beams": 5, **(changes or {})}),
        )
        return read_table(tmp_path / "rankings.parquet", RANKINGS), json.loads((tmp_path / "metrics.json").read_text())

    return call


def test_every_user_has_a_list_in_each_split(rank):
    rankings, metrics = rank()
    lists = rankings.group_by("split", "user", "modality").agg("rank", "item", "score")
    assert lists.height == 2 * USERS
    assert set(lists["modality"]) == {"itemknn"}
    for row in lists.iter_rows(named=True):
        assert row["rank"] == [1, 2, 3, 4, 5]
        assert len(set(row["item"])) == 5
        assert row["score"] == sorted(row["score"], reverse=True)
        assert max(row["score"]) <= 0
    assert metrics == {split: {"itemknn_users": USERS, "itemknn_rows": 5 * USERS} for split in ("valid", "test")}


def test_what_follows_on_the_circle_stands_first(rank):
    rankings, _ = rank()
    last = SHOP.filter(split="valid").select("user", last="item")
    best = rankings.filter(split="test", rank=1).join(last, on="user")
    steps = (best["item"].cast(int) - best["last"].cast(int)) % ITEMS
    assert (steps.is_between(1, 3)).mean() > 0.8


@pytest.mark.parametrize("member", ["als", "bpr"])
def test_factorisations_are_drawn_by_the_seed(rank, member):
    first, again, other = (rank({"collaborative.members": [member], "seed": seed})[0] for seed in (0, 0, 1))
    assert set(first["modality"]) == {member}
    assert first.equals(again)
    assert not first.equals(other)


def test_the_factors_of_als_are_written_and_no_others(rank, tmp_path):
    """With them alone and a history, the list is the one of the run."""
    rankings, _ = rank({"collaborative.members": ["itemknn", "als"], "als.factors": 3, "corpus.max_history": 4})
    factors = read_table(tmp_path / "factors.parquet", VECTORS)
    assert factors["item"].to_list() == list(range(ITEMS))
    assert factors["vector"].to_numpy().shape == (ITEMS, 3)
    settings = AlsSettings(**load_params(tmp_path / "params.yaml").als.model_dump())
    found = histories(SHOP, split="test", max_history=4)
    scores = als_scores(als_of(factors, settings=settings), found)
    best = rankings.filter(split="test", modality="als", rank=1).sort("user")
    assert best["item"].to_list() == scores.argmax(axis=1).tolist()
    rank({"collaborative.members": ["bpr"]})
    assert read_table(tmp_path / "factors.parquet", VECTORS).is_empty()


def test_the_strengths_of_slist_are_written_and_no_others(rank, tmp_path):
    """With them alone and a history, the list is the one of the run."""
    rankings, _ = rank({"collaborative.members": ["itemknn", "slist"], "corpus.max_history": 4})
    strengths = strengths_in(read_table(tmp_path / "strengths.parquet", STRENGTHS), items=ITEMS)
    assert strengths.nnz > ITEMS
    recency = load_params(tmp_path / "params.yaml").slist.recency
    scores = strength_scores(strengths, histories(SHOP, split="test", max_history=4), recency=recency)
    best = rankings.filter(split="test", modality="slist", rank=1).sort("user")
    assert best["item"].to_list() == scores.argmax(axis=1).tolist()
    rank({"collaborative.members": ["itemknn"]})
    assert read_table(tmp_path / "strengths.parquet", STRENGTHS).is_empty()


def test_a_factorisation_is_loaded_where_it_is_asked_for_alone(tmp_path):
    """In an environment without the library everything else works."""
    (tmp_path / "implicit.py").write_text("raise ImportError('not needed')")
    code = "import sys, stages.rank_collaborative, tessera.recommender.factors; print(*sys.modules)"
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    loaded = done.stdout.split()
    assert "tessera.recommender.factors" in loaded
    assert "implicit" not in loaded


def test_without_members_there_is_an_empty_table(rank):
    rankings, metrics = rank({"collaborative.members": []})
    assert rankings.is_empty()
    assert metrics == {}


def test_seen_items_are_left_out_by_parameter(rank):
    rankings, _ = rank({"decode.exclude_seen": True, "corpus.max_history": 1})
    seen = SHOP.select("user", "item", "position")
    found = rankings.join(seen, on=["user", "item"])
    before = found.filter(found["position"] < found["split"].replace_strict({"valid": 5, "test": 6}).cast(int))
    assert before.is_empty()
    assert not rank()[0].join(seen, on=["user", "item"]).is_empty()


def test_tokens_scale_the_scores_alone(rank):
    one, four = rank({"collaborative.tokens": 1})[0], rank({"collaborative.tokens": 4})[0]
    assert one.drop("score").equals(four.drop("score"))
    assert one["score"].to_list() == pytest.approx([4 * score for score in four["score"]])


@pytest.mark.parametrize("changes", [{"corpus.max_history": 1}, {"decode.beams": 3}])
def test_parameters_of_other_sections_change_the_rankings(rank, changes):
    assert not rank(changes)[0].equals(rank()[0])
