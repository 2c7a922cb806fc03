import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from stages.embed_text import main
from tessera.artifacts import read_table, write_table
from tessera.errors import DataError, ParamsError, SourceError, TableError
from tessera.schemas import ITEMS, VECTORS
from tests.pipeline_runs import IMAGE_ALONE
from tests.tiny_models import bert_like, llama_like

ROOT = Path(__file__).parents[2]
WORDS = ["red", "blue", "mug", "vase", "lamp", "kitchen", "hall", "small", "large", "of", "for"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    return {make.__name__: str(make(tmp_path_factory.mktemp("model"))) for make in (bert_like, llama_like)}


@pytest.fixture
def items(tmp_path):
    """Twelve items in no order; item 3 has no text, item 4 no title and item 5 no description."""
    generator = np.random.default_rng(0)
    told = [(" ".join(generator.choice(WORDS, 2)), " ".join(generator.choice(WORDS, 9))) for _ in range(12)]
    told[3], told[4], told[5] = ("", ""), ("", told[4][1]), (told[5][0], "")
    rows = [(item, f"k{item}", *told[item], [], True, 5) for item in generator.permutation(12)]
    write_table(tmp_path / "items.parquet", pl.DataFrame(rows, schema=ITEMS, orient="row"), ITEMS)
    return tmp_path / "items.parquet"


@pytest.fixture
def embed(items, tmp_path, params_file):
    """Run the stage with changed parameters; return its table and its metrics."""

    def run(changes=None, *, catalogue=items):
        paths = tmp_path / "vectors.parquet", tmp_path / "encoder", tmp_path / "metrics.json"
        main(catalogue, *paths, params_file(changes))
        return read_table(paths[0], VECTORS), json.loads(paths[2].read_text())

    return run


def matrix(table):
    return table["vector"].to_numpy()


def with_model(models, kind="bert_like", **changes):
    sized = {"text.encoder": "transformers", "text.model": models[kind], "text.max_tokens": 16, "device": "cpu"}
    return sized | {f"text.{name}": value for name, value in changes.items()}


def test_each_item_has_a_vector_in_the_order_of_items(embed):
    table, metrics = embed({"text.dimensions": 6})
    assert table["item"].to_list() == list(range(12))
    assert table["present"].to_list() == [item != 3 for item in range(12)]
    assert metrics == {"items": 12, "present": 11, "missing": pytest.approx(1 / 12), "width": 6}
    vectors = matrix(table)
    present = np.arange(12) != 3
    np.testing.assert_allclose(np.linalg.norm(vectors[present], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[3], vectors[present].mean(axis=0), atol=1e-6)


def test_a_modality_that_is_not_used_is_an_empty_table(embed):
    table, metrics = embed({**IMAGE_ALONE, "text.encoder": "transformers"})
    assert table.height == 0
    assert dict(table.schema) == VECTORS
    assert metrics == {"items": 0}


def test_the_same_parameters_write_the_same_bytes_whatever_the_seed(embed, tmp_path):
    written = []
    for seed in (0, 0, 1):
        embed({"seed": seed})
        written.append((tmp_path / "vectors.parquet").read_bytes())
    assert written[0] == written[1] == written[2]


def test_taking_texts_away_is_embedding_the_others(embed, items, tmp_path):
    """No encoder learns from what is taken away: the catalogue without these items gives the others' vectors."""
    worse, metrics = embed({"text.dimensions": 6, "text.missing": 0.25})
    assert metrics["made_missing"] == 3
    lost = {item for item in range(12) if not worse["present"][item]} - {3}
    catalogue = read_table(items, ITEMS)
    blank = pl.when(pl.col("item").is_in(list(lost))).then(pl.lit("")).otherwise
    told = catalogue.with_columns(title=blank(pl.col("title")), description=blank(pl.col("description")))
    write_table(tmp_path / "fewer.parquet", told, ITEMS)
    fewer, _ = embed({"text.dimensions": 6}, catalogue=tmp_path / "fewer.parquet")
    assert fewer.equals(worse)


@pytest.mark.parametrize("made_worse", [{"text.noise": 1.0}, {"text.swapped": 1.0}])
def test_noise_and_swaps_change_vectors_and_not_who_has_one(embed, made_worse):
    usual, metrics = embed({"text.dimensions": 6})
    worse, told = embed({"text.dimensions": 6, **made_worse})
    assert worse["present"].equals(usual["present"])
    assert np.abs(matrix(worse)[worse["present"]] - matrix(usual)[usual["present"]]).max(axis=1).min() > 0
    assert told == metrics | ({"swapped": 11} if "text.swapped" in made_worse else {})


def test_model_metrics_tell_of_tokens(embed, models):
    table, metrics = embed(with_model(models, max_tokens=10))
    assert metrics["width"] == table["vector"].dtype.shape[0] == 16
    assert metrics["mean_tokens"] == pytest.approx((9 * 10 + 10 + 4) / 11)
    assert metrics["truncated"] == pytest.approx(10 / 11)
    assert table["present"].sum() == metrics["present"] == 11


@pytest.mark.parametrize(
    ("name", "value"), [("model", "llama_like"), ("fields", "apart"), ("max_tokens", 6), ("encoder", "tfidf")]
)
def test_what_changes_the_vectors_of_a_model(embed, models, name, value):
    usual = matrix(embed(with_model(models))[0])
    changed = matrix(embed(with_model(models, **{name: models.get(value, value)}))[0])
    assert usual.shape != changed.shape or np.abs(usual - changed).max() > 1e-3


@pytest.mark.parametrize(("name", "value"), [("batch_size", 1), ("dimensions", 2), ("trust_remote_code", True)])
def test_what_does_not_change_the_vectors_of_a_model(embed, models, name, value):
    usual = matrix(embed(with_model(models))[0])
    np.testing.assert_allclose(matrix(embed(with_model(models, **{name: value}))[0]), usual, atol=1e-5)


def test_batch_size_is_how_many_texts_are_read_together(embed, models, monkeypatch):
    told = []
    monkeypatch.setattr(
        "tessera.encoders.text.progress", lambda elements, *, title, total: told.append((title, total)) or elements
    )
    for batch_size in (1, 5, 100):
        embed(with_model(models, batch_size=batch_size))
    assert told == [("texts", 11), ("texts", 3), ("texts", 1)]


def test_fields_apart_average_title_and_description(embed, models, items, tmp_path):
    apart = matrix(embed(with_model(models, fields="apart"))[0])
    for dropped in ("title", "description"):
        only = pl.read_parquet(items).with_columns(pl.lit("").alias(dropped))
        write_table(tmp_path / f"no_{dropped}.parquet", only, ITEMS)
    titles = matrix(embed(with_model(models), catalogue=tmp_path / "no_description.parquet")[0])
    descriptions = matrix(embed(with_model(models), catalogue=tmp_path / "no_title.parquet")[0])
    both = [item for item in range(12) if item not in (3, 4, 5)]
    np.testing.assert_allclose(apart[both], (titles[both] + descriptions[both]) / 2, atol=1e-5)
    np.testing.assert_allclose(apart[4], descriptions[4], atol=1e-5)
    np.testing.assert_allclose(apart[5], titles[5], atol=1e-5)


@pytest.mark.parametrize(("dimensions", "width"), [(3, 3), (1000, 9)])
def test_dimensions_are_the_width_of_tfidf(embed, dimensions, width):
    table, metrics = embed({"text.dimensions": dimensions})
    assert metrics["width"] == matrix(table).shape[1] == width


def test_fields_change_tfidf(embed):
    together, apart = (matrix(embed({"text.dimensions": 4, "text.fields": f})[0]) for f in ("together", "apart"))
    assert np.abs(together - apart).max() > 1e-2


def test_precomputed_vectors_come_from_the_path(embed, tmp_path):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        vectors = [[item + shift, 1.0] for item in range(11)]
        table = pl.DataFrame({"item": [f"k{item}" for item in range(11)], "embedding": vectors})
        table.write_parquet(tmp_path / f"{name}.parquet")
        found, metrics = embed({"text.encoder": "precomputed", "text.path": str(tmp_path / f"{name}.parquet")})
        assert matrix(found)[:11].tolist() == vectors
        assert matrix(found)[11].tolist() == [5 + shift, 1.0]
        assert metrics == {"items": 12, "present": 11, "missing": pytest.approx(1 / 12), "width": 2}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text.encoder": "precomputed", "text.path": "nowhere"}, SourceError, "nowhere: expected a Parquet file"),
        ({"text.encoder": "transformers"}, ParamsError, "text.model, as text.encoder is transformers: expected"),
        ({"text.encoder": "transformers", "text.model": "x", "device": "abacus"}, ParamsError, "device: expected auto"),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(embed, tmp_path, changes, error, message):
    before = set(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        embed(changes)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "params.yaml"}


def test_a_catalogue_without_text_is_an_error(embed, items):
    pl.read_parquet(items).with_columns(title=pl.lit(""), description=pl.lit("")).write_parquet(items)
    for encoder in ("tfidf", "transformers"):
        with pytest.raises(DataError, match="text: expected at least one item with a title or a description"):
            embed({"text.encoder": encoder, "text.model": "unread"})


def test_a_model_that_nobody_watches_is_warned_of(embed, models, caplog):
    with caplog.at_level(logging.WARNING, logger="tessera"):
        embed(with_model(models, watch=models["bert_like"]))
        assert caplog.messages == []
        embed(with_model(models))
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "DVC does not see when it changes: set text.watch to it, or to its folder"
    ]


def test_another_table_is_an_error(embed, tmp_path):
    pl.DataFrame({"item": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(TableError, match=r"other\.parquet"):
        embed(catalogue=tmp_path / "other.parquet")


def test_tfidf_needs_no_torch(items, tmp_path, params_file):
    paths = {
        "items": items,
        "vectors": tmp_path / "v.parquet",
        "encoder": tmp_path / "e",
        "metrics": tmp_path / "m.json",
        "params": params_file(),
    }
    command = ["stages/embed_text.py", *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]
    code = (
        f"import sys, runpy; sys.argv = {command!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "v.parquet").is_file()
