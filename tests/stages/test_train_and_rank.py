"""train_t5 and rank_items, one after the other, on a corpus of a few users."""

import polars as pl
import pytest
from transformers import T5ForConditionalGeneration

from stages.build_corpus import main as build_corpus
from stages.rank_items import main as rank_items
from stages.train_t5 import main as train_t5
from tessera.artifacts import read_json, read_table, write_json, write_table
from tessera.errors import CheckpointError
from tessera.schemas import IDS, INTERACTIONS, RANKINGS

USERS, ITEMS = 30, 12
SMALL = {
    "t5.d_model": 16,
    "t5.d_ff": 16,
    "t5.d_kv": 8,
    "t5.heads": 2,
    "t5.encoder_layers": 1,
    "t5.decoder_layers": 1,
    "t5.epochs": 2,
    "decode.beams": 10,
    "quant.codebook_size": 4,
    "device": "cpu",
}


@pytest.fixture
def corpus(tmp_path, params_file):
    rows = [
        (user, (user + step) % ITEMS, step, step, {4: "valid", 5: "test"}.get(step, "train"))
        for user in range(USERS)
        for step in range(6)
    ]
    write_table(tmp_path / "interactions.parquet", pl.DataFrame(rows, schema=INTERACTIONS, orient="row"), INTERACTIONS)
    ids = [
        (item, modality, [item // 4, item % 4], [item // 4, item % 4], False)
        for modality in ("text", "image")
        for item in range(ITEMS)
    ]
    write_table(tmp_path / "ids.parquet", pl.DataFrame(ids, schema=IDS, orient="row"), IDS)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("interactions", "ids", "train", "valid", "test")}
    paths["vocabulary"] = tmp_path / "vocabulary.json"
    build_corpus(**paths, metrics=tmp_path / "build_corpus.json", params_file=params_file(SMALL))
    return paths


def pick(paths, *names):
    return {name: paths[name] for name in names}


def train(corpus, tmp_path, params_file, changes=None):
    outputs = {name: tmp_path / "t5" / name for name in ("checkpoint", "history", "curves", "metrics")}
    inputs = pick(corpus, "vocabulary", "ids", "train", "valid")
    params = params_file(SMALL | (changes or {}))
    train_t5(**inputs, **outputs, resume=tmp_path / "resume", params_file=params)
    return outputs


def rank(corpus, tmp_path, params_file, checkpoint, changes=None):
    outputs = {"rankings": tmp_path / "rankings.parquet", "metrics": tmp_path / "rank_items.json"}
    inputs = pick(corpus, "vocabulary", "ids", "interactions", "valid", "test")
    rank_items(**inputs, **outputs, checkpoint=checkpoint, params_file=params_file(SMALL | (changes or {})))
    return read_table(outputs["rankings"], RANKINGS)


def test_from_corpus_to_rankings(corpus, tmp_path, params_file):
    trained = train(corpus, tmp_path, params_file)
    assert T5ForConditionalGeneration.from_pretrained(trained["checkpoint"]).config.d_model == 16
    history = read_json(trained["history"])
    assert [row["epoch"] for row in history] == [1, 2]
    metrics = read_json(trained["metrics"])
    assert metrics["epochs"] == 2
    assert metrics["best"] in history
    curve = (trained["curves"] / "plots" / "metrics" / "train_loss.tsv").read_text().split()
    assert curve[-1] == str(history[-1]["train_loss"])
    assert not list((tmp_path / "resume").glob("*/*")), "checkpoints of a finished training are removed"

    rankings = rank(corpus, tmp_path, params_file, trained["checkpoint"])
    lists = rankings.group_by("split", "user", "modality").agg("rank", "item", "score")
    assert lists.height == 2 * USERS * 2
    for row in lists.iter_rows(named=True):
        assert row["rank"] == list(range(1, 11))
        assert len(set(row["item"])) == 10
        assert row["score"] == sorted(row["score"], reverse=True)


def test_seen_items_are_left_out_by_parameter(corpus, tmp_path, params_file):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    rankings = rank(corpus, tmp_path, params_file, checkpoint, {"decode.exclude_seen": True})
    for row in rankings.iter_rows(named=True):
        history = range(row["user"], row["user"] + (4 if row["split"] == "valid" else 5))
        assert row["item"] not in {item % ITEMS for item in history}


@pytest.mark.parametrize("changes", [{"decode.beams": 3}, {"decode.renormalise": True}])
def test_decode_parameters_change_the_rankings(corpus, tmp_path, params_file, changes):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    rankings = [rank(corpus, tmp_path, params_file, checkpoint, change) for change in ({}, changes)]
    assert not rankings[0].equals(rankings[1])


@pytest.mark.parametrize(
    ("rescoring", "expected"),
    [("recommendation", {"text", "image"}), ("history", {"text", "image", "text_to_image", "image_to_text"})],
)
def test_what_any_list_holds_is_scored_by_each_task(corpus, tmp_path, params_file, rescoring, expected):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    found = rank(corpus, tmp_path, params_file, checkpoint, {"decode.beams": 4})
    pools = found.group_by("split", "user").agg(items=pl.col("item").unique().sort())
    assert pools["items"].list.len().max() > 4
    rankings = rank(corpus, tmp_path, params_file, checkpoint, {"decode.beams": 4, "decode.rescoring": rescoring})
    lists = rankings.group_by("split", "user", "modality").agg("rank", "score", items=pl.col("item").sort())
    assert set(lists["modality"]) == expected
    assert lists.height == pools.height * len(expected)
    for row in lists.join(pools, on=["split", "user"], suffix="_of_pool").iter_rows(named=True):
        assert row["items"] == row["items_of_pool"]
        assert row["rank"] == list(range(1, len(row["items"]) + 1))
        assert row["score"] == sorted(row["score"], reverse=True)
    counts = read_json(tmp_path / "rank_items.json")
    for split, of_split in rankings.group_by("split"):
        rows = of_split.group_by("modality").len().iter_rows()
        assert counts[split[0]] == {
            key: value for name, rows in rows for key, value in ((f"{name}_users", USERS), (f"{name}_rows", rows))
        }


def test_users_decoded_together_change_nothing(corpus, tmp_path, params_file):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    one, other = (rank(corpus, tmp_path, params_file, checkpoint, {"decode.batch_size": size}) for size in (256, 7))
    assert one.drop("score").equals(other.drop("score"))


def test_a_checkpoint_of_another_vocabulary_is_refused_and_nothing_is_written(corpus, tmp_path, params_file):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    words = read_json(corpus["vocabulary"])
    words["codebook_sizes"]["text"][0] += 1
    write_json(corpus["vocabulary"], words)
    with pytest.raises(CheckpointError, match="expected a model of the vocabulary"):
        rank(corpus, tmp_path, params_file, checkpoint)
    assert not (tmp_path / "rankings.parquet").exists()


def test_a_training_that_fails_leaves_no_curves(corpus, tmp_path, params_file):
    with pytest.raises(CheckpointError, match="expected a finite loss"):
        train(corpus, tmp_path, params_file, {"t5.lr": 1e30})
    assert not [file for file in (tmp_path / "t5").rglob("*") if file.is_file()]


def test_a_checkpoint_of_other_ids_is_refused_and_nothing_is_written(corpus, tmp_path, params_file):
    checkpoint = train(corpus, tmp_path, params_file)["checkpoint"]
    ids = read_table(corpus["ids"], IDS)
    write_table(corpus["ids"], ids.with_columns(item=ITEMS - 1 - pl.col("item")), IDS)
    with pytest.raises(CheckpointError, match="expected a model of the semantic IDs"):
        rank(corpus, tmp_path, params_file, checkpoint)
    assert not (tmp_path / "rankings.parquet").exists()
