"""The stage that learns pictures and their codes, from tables to a folder and a table."""

import io
import json
import logging

import numpy as np
import polars as pl
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from stages.distill_images import main
from stages.embed_images import main as embed
from stages.resolve_collisions import main as resolve
from tessera.artifacts import read_table, write_table
from tessera.errors import DataError, ParamsError, SourceError
from tessera.items.hashing import drawn
from tessera.schemas import CODEBOOKS, IDS, IMAGES, ITEMS
from tests.pipeline_runs import IMAGE_ALONE, SMALL, TEXT_ALONE

RQ_DINO = SMALL | {
    **IMAGE_ALONE,
    "corpus.tasks": ["history image -> image"],
    "t5.lambda_implicit": 0.0,
    "image.encoder": "rq_dino",
    "quant.levels": 2,
    "quant.codebook_size": 5,
    "ids.collisions": "none",
}
COLOURS = ["red", "green", "blue", "yellow", "grey"]
COUNT, LACKING, BROKEN = 22, 3, 7


def picture(number):
    """A plain colour with a square of another somewhere."""
    drawn = Image.new("RGB", (40, 30), COLOURS[number % 5])
    drawn.paste(COLOURS[(number + 1) % 5], (number, 4, number + 12, 16))
    file = io.BytesIO()
    drawn.save(file, format="JPEG")
    return file.getvalue()


@pytest.fixture
def tables(tmp_path):
    """Items of which one has no picture and another a broken one; the table of pictures has others too."""
    rows = [(n, f"k{n}", "", "", [], n != LACKING, 5) for n in range(COUNT)]
    write_table(tmp_path / "items.parquet", pl.DataFrame(rows, schema=ITEMS, orient="row"), ITEMS)
    files = {f"k{n}": picture(n) for n in range(COUNT + 4) if n != LACKING}
    files[f"k{BROKEN}"] = files[f"k{BROKEN}"][:60]
    images = [(key, file, 40, 30, "ok", "") for key, file in files.items()]
    images.append((f"k{LACKING}", None, 0, 0, "missing", "404"))
    write_table(tmp_path / "images.parquet", pl.DataFrame(images, schema=IMAGES, orient="row"), IMAGES)
    return {"items": tmp_path / "items.parquet", "images": tmp_path / "images.parquet"}


@pytest.fixture
def distill(tables, tmp_path, params_file):
    """Run the stage with changed parameters; return the folder that it wrote to."""
    runs = iter(range(100))

    def run(changes=None, *, base=RQ_DINO):
        folder = tmp_path / f"run{next(runs)}"
        main(
            **tables,
            backbone=folder / "backbone",
            codebooks=folder / "codebooks.parquet",
            history=folder / "history.tsv",
            metrics=folder / "metrics.json",
            params_file=params_file(base | (changes or {})),
        )
        return folder

    return run


def test_it_writes_a_backbone_codebooks_history_and_metrics(distill):
    folder = distill()
    assert {file.name for file in (folder / "backbone").iterdir()} == {"weights.safetensors", "config.json"}
    table = read_table(folder / "codebooks.parquet", CODEBOOKS)
    assert table.select("level", "code").rows() == [(level, code) for level in range(2) for code in range(5)]
    assert table["vector"].dtype.size == 16
    history = pl.read_csv(folder / "history.tsv", separator="\t")
    assert history.columns == ["epoch", "loss", "dino", "rq", "used_0", "used_1", "replaced_0", "replaced_1"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pictures"] == COUNT - 2
    for name in ("loss", "dino", "rq"):
        assert metrics[f"first_{name}"] == pytest.approx(history[name][0])
        assert metrics[f"last_{name}"] == pytest.approx(history[name][-1])
    assert set(metrics["levels"]) == {"0", "1"}
    assert 1 <= metrics["levels"]["0"]["codes_used"] <= 5


def test_the_same_parameters_write_the_same_files(distill):
    one, other, third = distill(), distill(), distill({"seed": 1})
    for file in ("backbone/weights.safetensors", "codebooks.parquet", "history.tsv", "metrics.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
        assert (one / file).read_bytes() != (third / file).read_bytes()


def test_it_learns_nothing_from_pictures_that_are_taken_away(distill):
    metrics = json.loads((distill({"image.missing": 0.5}) / "metrics.json").read_text())
    keys = pl.Series([f"k{item}" for item in range(COUNT)])
    taken = set(drawn(keys, share=0.5, purpose="image missing", seed=0).tolist())
    kept = set(range(COUNT)) - taken - {LACKING, BROKEN}
    assert metrics["pictures"] == len(kept)


@pytest.mark.parametrize("changes", [{"image.encoder": "descriptors"}, TEXT_ALONE])
def test_nothing_stands_for_what_no_stage_needs(distill, changes):
    """Whatever the seed: what reads it does not run again."""
    tasks = {"corpus.tasks": ["history text -> text"]} if "modalities" in changes else {}
    one, other = (distill(changes | tasks | {"seed": seed}) for seed in (0, 1))
    assert read_table(one / "codebooks.parquet", CODEBOOKS).is_empty()
    assert json.loads((one / "metrics.json").read_text()) == {"pictures": 0}
    files = [sorted(file for file in folder.rglob("*") if file.is_file()) for folder in (one, other)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_ids_are_the_codes_that_its_metrics_tell_of(distill, tables, tmp_path, params_file):
    """Through embed_images and resolve_collisions; items without a picture take no part and still have an ID."""
    folder = distill({"distill.epochs": 4})
    params = params_file(RQ_DINO | {"distill.epochs": 4})
    embed(
        **tables,
        backbone=folder / "backbone",
        vectors=tmp_path / "v",
        encoder=tmp_path / "e",
        metrics=tmp_path / "m",
        params_file=params,
    )
    resolve(
        vectors=[f"image={tmp_path / 'v'}"],
        quantizer=tmp_path / "nowhere",
        codebooks=[f"image={folder / 'codebooks.parquet'}"],
        items=tables["items"],
        ids=tmp_path / "ids.parquet",
        code_usage=tmp_path / "usage.tsv",
        metrics=tmp_path / "ids.json",
        params_file=params,
    )
    table = read_table(tmp_path / "ids.parquet", IDS).filter(~pl.col("item").is_in([LACKING, BROKEN]))
    codes = np.array(table["codes"].to_list())
    levels = json.loads((folder / "metrics.json").read_text())["levels"]
    for level in (0, 1):
        assert len(set(codes[:, level])) == levels[str(level)]["codes_used"]


def test_the_backbone_and_its_first_weights_are_parameters(distill, tmp_path):
    """distill.backbone and distill.checkpoint."""
    usual = (distill() / "backbone/weights.safetensors").read_bytes()
    other = distill({"distill.backbone": "vit_tiny_patch16_224", "distill.heads": 2})
    assert json.loads((other / "backbone/config.json").read_text())["backbone"] == "vit_tiny_patch16_224"
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 4}
    file = tmp_path / "first.safetensors"
    torch.manual_seed(9)
    save_file(timm.create_model("vit_small_patch16_224", **sizes).state_dict(), file)
    begun = distill({"distill.checkpoint": str(file), "distill.watch": str(file)})
    assert (begun / "backbone/weights.safetensors").read_bytes() != usual


def test_a_checkpoint_that_nobody_watches_is_warned_of(distill, tmp_path, caplog):
    """distill.watch"""
    (tmp_path / "first.safetensors").write_bytes(b"no weights")
    changes = {"distill.checkpoint": str(tmp_path / "first.safetensors")}
    with caplog.at_level(logging.WARNING, logger="tessera"):
        with pytest.raises(SourceError, match=r"distill\.checkpoint: expected weights of"):
            distill(changes | {"distill.watch": str(tmp_path)})
        assert caplog.messages == []
        with pytest.raises(SourceError, match=r"distill\.checkpoint: expected weights of"):
            distill(changes)
    assert "set distill.watch to it" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"distill.backbone": "nothing"}, ParamsError, r"distill\.backbone: expected .* found 'nothing'"),
        ({"distill.local_size": 9}, ParamsError, r"distill\.local_size: expected a multiple of .* patch of 4, found 9"),
        ({"distill.checkpoint": "nowhere"}, SourceError, r"distill\.checkpoint: expected published or a file"),
        ({"distill.lr": 1e30, "distill.clip_norm": 1e30}, DataError, r"distill\.lr: expected a rate"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left_behind(distill, tmp_path, changes, error, message):
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(error, match=message):
        distill(changes)
    left = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert left <= {tmp_path / "params.yaml"}


def test_a_catalogue_without_pictures_is_an_error(distill, tables):
    pl.read_parquet(tables["images"]).with_columns(picture=pl.lit(None, pl.Binary)).write_parquet(tables["images"])
    with pytest.raises(DataError, match="image: expected at least two pictures to learn from, found 0"):
        distill()
