"""The stage that embeds items by who took them, and the ranking with its encoder."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest

from stages.embed_collaborative import main
from stages.rank_collaborative import main as rank_collaborative
from tessera.artifacts import read_table, write_table
from tessera.errors import CheckpointError, DataError
from tessera.recommender.lists import rank_histories
from tessera.schemas import INTERACTIONS, RANKINGS, VECTORS
from tests.recommender.conftest import circle_interactions

ITEMS = 12
SHOP = circle_interactions(users=20, items=ITEMS, length=7, seed=0)
SMALL = {
    "device": "cpu",
    "sequence.encoder": "sasrec",
    "sequence.width": 8,
    "sequence.epochs": 2,
    "decode.beams": 5,
}


@pytest.fixture
def embed(tmp_path, params_file):
    """Return `embed(changes, shop)`, which runs the stage and gives its vectors, history and metrics."""

    def call(changes=None, shop=SHOP):
        write_table(tmp_path / "interactions.parquet", shop, INTERACTIONS)
        main(
            interactions=tmp_path / "interactions.parquet",
            encoder=tmp_path / "encoder",
            vectors=tmp_path / "vectors.parquet",
            history=tmp_path / "history.tsv",
            metrics=tmp_path / "metrics.json",
            params_file=params_file(SMALL | (changes or {})),
        )
        history = pl.read_csv(tmp_path / "history.tsv", separator="\t")
        return (
            read_table(tmp_path / "vectors.parquet", VECTORS),
            history,
            json.loads((tmp_path / "metrics.json").read_text()),
        )

    return call


@pytest.fixture
def rank(tmp_path, params_file):
    def call(changes):
        rank_collaborative(
            interactions=tmp_path / "interactions.parquet",
            encoder=tmp_path / "encoder",
            rankings=tmp_path / "rankings.parquet",
            factors=tmp_path / "factors.parquet",
            strengths=tmp_path / "strengths.parquet",
            metrics=tmp_path / "rank.json",
            params_file=params_file(SMALL | changes),
        )
        return read_table(tmp_path / "rankings.parquet", RANKINGS)

    return call


def test_what_is_written(embed):
    vectors, history, metrics = embed()
    assert vectors["item"].to_list() == list(range(ITEMS))
    assert vectors["vector"].to_numpy().shape == (ITEMS, 8)
    assert history.columns == ["epoch", "loss"]
    assert history["epoch"].to_list() == [1, 2]
    assert metrics == {
        "items": ITEMS,
        "present": ITEMS,
        "missing": 0.0,
        "width": 8,
        "epoch": 2,
        "loss": pytest.approx(history["loss"][-1]),
    }


def test_the_metrics_are_those_of_the_weights_that_are_kept(embed):
    _, history, metrics = embed({"sequence.patience": 4, "sequence.epochs": 40, "sequence.lr": 0.05})
    best = history["valid_ndcg@10"].max()
    assert metrics["valid_ndcg@10"] == pytest.approx(best)
    assert metrics["epoch"] == history.filter(pl.col("valid_ndcg@10") == best)["epoch"][0] < history["epoch"][-1]


def test_without_an_encoder_the_table_is_empty(embed, tmp_path):
    vectors, history, metrics = embed({"sequence.encoder": "none"})
    assert vectors.is_empty()
    assert history.is_empty()
    assert metrics == {"items": 0}
    assert json.loads((tmp_path / "encoder" / "config.json").read_text()) == {"kind": "none"}


def test_an_item_without_training_interactions_is_absent(embed):
    """Item 3 is taken only as a test item."""
    cold = SHOP.filter((pl.col("item") != 3) | (pl.col("split") != "train"))
    vectors, _, metrics = embed(shop=cold)
    assert vectors["present"].to_list() == [item != 3 for item in range(ITEMS)]
    matrix = vectors["vector"].to_numpy()
    assert matrix[3] == pytest.approx(np.delete(matrix, 3, axis=0).mean(axis=0), abs=1e-6)
    assert metrics["present"] == ITEMS - 1


def test_an_item_that_no_sequence_tells_of_is_absent(embed):
    """Who took item 3 took nothing else in training, and a sequence of one item tells nothing."""
    others = SHOP.filter(pl.col("item") != 3)
    alone = SHOP.filter(pl.col("user") == 0).with_columns(user=pl.lit(99, pl.UInt32))
    alone = alone.filter((pl.col("split") != "train") | (pl.col("position") == 0))
    alone = alone.with_columns(item=pl.when(split="train").then(pl.lit(3, pl.UInt32)).otherwise("item"))
    vectors, *_ = embed(shop=pl.concat([others, alone]))
    assert vectors["present"].to_list() == [item != 3 for item in range(ITEMS)]


def test_patience_needs_validation_items(embed):
    with pytest.raises(DataError, match=r"sequence\.patience: expected validation items with a history.* found none"):
        embed({"sequence.patience": 1}, SHOP.filter(pl.col("split") != "valid"))


def test_a_member_that_ranks_nothing_is_told_of(embed, rank, monkeypatch, caplog):
    embed()

    def nothing(found):
        return np.full((len(found.users), ITEMS), -np.inf)

    monkeypatch.setattr(
        "stages.rank_collaborative.ranker", lambda *_, **__: partial(rank_histories, nothing, items=ITEMS)
    )
    rank({"collaborative.members": ["sasrec"]})
    assert "sasrec: ranks no item for any test user" in caplog.text


@pytest.mark.parametrize("encoder", ["sasrec", "bert4rec"])
def test_validation_and_test_items_change_nothing_unless_patience_looks_at_them(embed, encoder):
    turned = pl.when(pl.col("split") == "train").then("item").otherwise((pl.col("item") + 5) % ITEMS)
    other = SHOP.with_columns(item=turned.cast(pl.UInt32))
    changes = {"sequence.encoder": encoder}
    assert embed(changes)[0].equals(embed(changes, other)[0])
    history = embed(changes | {"sequence.patience": 1, "sequence.epochs": 3}, other)[1]
    assert "valid_ndcg@10" in history.columns


@pytest.mark.parametrize("encoder", ["sasrec", "bert4rec"])
def test_the_encoder_ranks_for_every_user(embed, rank, encoder):
    embed({"sequence.encoder": encoder})
    rankings = rank({"sequence.encoder": encoder, "collaborative.members": ["itemknn", encoder]})
    assert rankings["modality"].unique(maintain_order=True).to_list() == ["itemknn", encoder]
    lists = rankings.filter(modality=encoder).group_by("split", "user").agg("rank")
    assert lists["rank"].to_list() == [[1, 2, 3, 4, 5]] * 40


def test_an_encoder_of_another_kind_is_refused(embed, rank, tmp_path):
    embed({"sequence.encoder": "bert4rec"})
    with pytest.raises(CheckpointError, match=r"expected an encoder with .*'kind': 'sasrec'"):
        rank({"collaborative.members": ["sasrec"]})
    assert not (tmp_path / "rankings.parquet").exists()
