import json

import numpy as np
import polars as pl
import pytest

from stages.cluster_items import main
from tessera.artifacts import read_table, write_table
from tessera.errors import DataError, ParamsError, TableError
from tessera.schemas import LABELS, VECTORS
from tests.pipeline_runs import TEXT_ALONE

SMALL = {"pseudo.clusters": 3, "pseudo.initialisations": 2, "pseudo.iterations": 50}


@pytest.fixture
def vectors(tmp_path):
    """Two modalities of 40 items, of different widths; items 0 and 7 have no picture."""
    draws = np.random.default_rng(0)
    options = []
    for modality, width, absent in (("text", 5, []), ("image", 3, [0, 7])):
        table = pl.DataFrame(
            {
                "item": pl.Series(range(40), dtype=pl.UInt32),
                "vector": draws.normal(size=(40, width)).astype(np.float32),
                "present": [item not in absent for item in range(40)],
            }
        )
        write_table(tmp_path / f"{modality}.parquet", table, VECTORS)
        options.append(f"{modality}={tmp_path / modality}.parquet")
    return options


@pytest.fixture
def stage(tmp_path, vectors, params_file):
    def call(changes=None, options=vectors):
        labels, metrics = tmp_path / "labels.parquet", tmp_path / "metrics.json"
        main(options, labels, metrics, params_file({**SMALL, **(changes or {})}))
        return read_table(labels, LABELS), json.loads(metrics.read_text()), labels.read_bytes()

    return call


def test_every_item_is_labelled_in_every_modality_it_has(stage):
    labels, metrics, _ = stage()
    assert labels["modality"].to_list() == ["text"] * 40 + ["image"] * 40
    assert labels["item"].to_list() == [*range(40), *range(40)]
    assert labels.filter(pl.col("label").is_null()).select("modality", "item").rows() == [("image", 0), ("image", 7)]
    assert metrics.keys() == {"text", "image"}
    counts = labels.drop_nulls().filter(modality="image")["label"].value_counts()["count"]
    assert metrics["image"]["clusters_used"] == len(counts) == 3
    assert (metrics["image"]["smallest"], metrics["image"]["largest"]) == (counts.min(), counts.max())


def test_absent_items_have_no_influence(stage, tmp_path):
    labels, metrics, _ = stage()
    path = tmp_path / "image.parquet"
    far = pl.when("present").then("vector").otherwise(pl.lit([500.0] * 3, dtype=pl.Array(pl.Float32, 3)))
    write_table(path, read_table(path, VECTORS).with_columns(vector=far), VECTORS)
    assert stage()[0].equals(labels)
    assert stage()[1] == metrics


def test_the_same_parameters_give_the_same_file(stage):
    assert stage()[2] == stage()[2]


@pytest.mark.parametrize(
    "changes",
    [{"pseudo.clusters": 4}, {"seed": 1}, {"pseudo.iterations": 1}, {"pseudo.initialisations": 20}],
)
def test_each_parameter_changes_the_labels(stage, changes):
    thorough = {"pseudo.clusters": 8, "pseudo.initialisations": 1}
    assert not stage({**thorough, **changes})[0].equals(stage(thorough)[0])


def test_a_modality_that_is_not_used_is_left_out(stage, tmp_path):
    write_table(tmp_path / "image.parquet", pl.DataFrame(schema=VECTORS), VECTORS)
    labels, metrics, _ = stage(TEXT_ALONE)
    assert labels["modality"].unique().to_list() == ["text"]
    assert metrics.keys() == {"text"}
    with pytest.raises(DataError, match=r"^image: .* found 0 such items of 0$"):
        stage()


def test_a_used_modality_without_vectors_is_an_error(stage, vectors):
    with pytest.raises(ParamsError, match=r"^modalities: expected --vectors image=PATH, found only \['text'\]$"):
        stage(options=vectors[:1])


def test_an_error_leaves_no_file(stage, tmp_path):
    with pytest.raises(DataError, match=r"^image: expected pseudo.clusters = 39 .* found 38 such items of 40$"):
        stage({"pseudo.clusters": 39})
    (tmp_path / "text.parquet").unlink()
    with pytest.raises(TableError, match="expected a file, found nothing"):
        stage()
    assert not list(tmp_path.glob("*labels*")) + list(tmp_path.glob("*metrics*"))
