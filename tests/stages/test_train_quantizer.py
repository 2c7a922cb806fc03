"""The stage that trains the quantizer, from tables to a folder."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from stages.train_quantizer import main
from tessera.artifacts import write_table
from tessera.errors import DataError, ParamsError, TableError
from tessera.items.distillation import codebook_table
from tessera.schemas import CODEBOOKS, LABELS, VECTORS
from tests.pipeline_runs import IMAGE_ALONE, TEXT_ALONE

ITEMS = 40
SMALL = {
    "device": "cpu",
    "modalities": ["text", "image"],
    "quant.levels": 3,
    "quant.codebook_size": 24,
    "quant.latent_dim": 4,
    "quant.hidden": [8],
    "quant.epochs": 2,
    "quant.batch_size": 20,
    "quant.con_start_level": 1,
    "quant.replace_dead_after": 1,
}


def vectors(width, *, items=ITEMS, absent=0, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)
    return pl.DataFrame(
        {
            "item": pl.Series(range(items), dtype=pl.UInt32),
            "vector": pl.Series(matrix, dtype=pl.Array(pl.Float32, width)),
            "present": pl.Series([item >= absent for item in range(items)], dtype=pl.Boolean),
        }
    )


#: No codebooks are given; or one level of two codes.
NONE = pl.DataFrame(schema=CODEBOOKS)
GIVEN = codebook_table(torch.ones(1, 2, 5))
LETTER = {"quant.lambda_cf": 0.5, "sequence.encoder": "sasrec", "sequence.width": 4}


@pytest.fixture
def train(tmp_path, params_file):
    """Return `train(changes..., tables=...)`, which runs the stage and gives the folder that it writes to."""
    runs = iter(range(100))
    tables = {"text": vectors(6), "image": vectors(5, absent=4, seed=1)}

    def run(changes=None, *, tables=tables, labels=None, collaborative=None, codebooks=NONE):
        folder = tmp_path / f"run{next(runs)}"
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table, VECTORS)
        if labels is None:
            rows = [(i, m, None if m == "image" and i < 4 else i % 5) for m in ("text", "image") for i in range(ITEMS)]
            labels = pl.DataFrame(rows, schema=LABELS, orient="row")
        write_table(folder / "labels.parquet", labels, LABELS)
        files = {name: folder / f"{name}.parquet" for name in tables}
        if collaborative is not None:
            files["collaborative"] = collaborative
        write_table(folder / "codebooks.parquet", codebooks, CODEBOOKS)
        main(
            codebooks=[f"image={folder / 'codebooks.parquet'}"],
            vectors=[f"{name}={path}" for name, path in files.items()],
            labels=folder / "labels.parquet",
            quantizer=folder / "quantizer",
            history=folder / "history.tsv",
            metrics=folder / "metrics.json",
            params_file=params_file({**SMALL, **(changes or {})}),
        )
        return folder

    return run


def test_it_writes_weights_config_history_and_metrics(train):
    folder = train()
    assert {file.name for file in (folder / "quantizer").iterdir()} == {"weights.safetensors", "config.json"}
    config = json.loads((folder / "quantizer" / "config.json").read_text())
    assert config["widths"] == {"text": 6, "image": 5}
    history = pl.read_csv(folder / "history.tsv", separator="\t")
    assert history["epoch"].to_list() == [1, 2]
    assert {"total", "rq", "recon", "con", "align", "used_text_0"} <= set(history.columns)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == pytest.approx(history.row(-1, named=True), rel=1e-5)


def test_the_same_parameters_write_the_same_files(train):
    one, other = train(), train()
    for file in ("quantizer/weights.safetensors", "quantizer/config.json", "history.tsv", "metrics.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


def test_a_modality_not_in_use_is_not_looked_at(train):
    tables = {"text": vectors(6), "image": vectors(5).clear()}
    folder = train(TEXT_ALONE, tables=tables)
    assert list(json.loads((folder / "quantizer" / "config.json").read_text())["widths"]) == ["text"]


def test_given_codebooks_leave_the_modality_to_pair_the_others_items(train):
    """Its codes are not learned, but L_con still brings together the texts of items whose pictures are alike."""
    folder = train({"quant.lambda_align": 0.0}, codebooks=GIVEN)
    assert list(json.loads((folder / "quantizer" / "config.json").read_text())["widths"]) == ["text"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["con_text_by_image_1"] > 0
    assert not [name for name in metrics if name.startswith(("con_image", "rq_image", "used_image", "align_"))]


def test_with_all_codebooks_given_there_is_nothing_to_learn(train):
    folder = train(IMAGE_ALONE, tables={"image": vectors(5)}, codebooks=GIVEN)
    assert json.loads((folder / "quantizer" / "config.json").read_text()) == {"method": "none: all codebooks are given"}
    assert json.loads((folder / "metrics.json").read_text()) == {"epoch": 0}


def test_collaborative_vectors_are_read_where_lambda_cf_is_above_0(train, tmp_path):
    file, nowhere = tmp_path / "known.parquet", tmp_path / "nowhere.parquet"
    write_table(file, vectors(4, absent=3, seed=2), VECTORS)
    weights = "quantizer/weights.safetensors"
    assert (train(collaborative=nowhere) / weights).read_bytes() == (train() / weights).read_bytes()
    folder = train(LETTER, collaborative=file)
    assert json.loads((folder / "metrics.json").read_text())["cf"] > 0
    assert (folder / "quantizer" / "config.json").read_bytes() == (train() / "quantizer" / "config.json").read_bytes()
    with pytest.raises(DataError, match=r"quant\.lambda_cf: expected collaborative vectors of 40 items"):
        train(LETTER)
    write_table(file, vectors(4).clear(), VECTORS)
    with pytest.raises(DataError, match=r"quant\.lambda_cf: .* found vectors of shape \(40, 0\)"):
        train(LETTER, collaborative=file)
    write_table(file, vectors(4, items=39), VECTORS)
    with pytest.raises(DataError, match="collaborative: expected vectors of the same 40 items"):
        train(LETTER, collaborative=file)


def test_what_is_wrong_is_named_and_nothing_is_left_behind(train, tmp_path):
    with pytest.raises(DataError, match="modalities: expected vectors of image, found text: 40 of them"):
        train(tables={"text": vectors(6)})
    with pytest.raises(DataError, match="image: expected one label for each of 40 items, found 0 labels"):
        train(labels=pl.DataFrame([(i, "text", 0) for i in range(ITEMS)], schema=LABELS, orient="row"))
    with pytest.raises(ParamsError, match=r"quant\.method"):
        train({"quant.method": "vq"})
    with pytest.raises(TableError, match=r"labels.parquet: expected columns"):
        train(labels=pl.DataFrame({"item": [1]}))
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert left <= {"text.parquet", "image.parquet", "labels.parquet", "codebooks.parquet", "params.yaml"}
