import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stages.embed_images import main
from tessera.artifacts import read_table, write_table
from tessera.errors import CheckpointError, DataError, ParamsError, SourceError, TableError
from tessera.items.backbones import Shape, channels_first, new_backbone, save_backbone
from tessera.items.hashing import drawn
from tessera.items.image_encoders import squared_pictures
from tessera.runtime import accelerator_on
from tessera.schemas import IMAGES, ITEMS, VECTORS
from tests.pipeline_runs import TEXT_ALONE
from tests.tiny_models import CLIP, clip_folder

RQ_DINO = {"image.encoder": "rq_dino", "quant.lambda_align": 0.0, "device": "cpu"}
ROOT = Path(__file__).parents[2]


def picture(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(file, format="JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The weights of two tiny `open_clip` models whose architectures are `small` and `wide`."""
    torch.manual_seed(0)
    weights = {}
    for name, width in (("small", 12), ("wide", 20), ("small2", 12)):
        folder = clip_folder(tmp_path_factory.mktemp("clip") / "model", embed_dim=width)
        (folder / f"{name}.json").write_text(json.dumps(CLIP | {"embed_dim": width}))
        open_clip.add_model_config(folder / f"{name}.json")
        weights[name] = str(folder / "open_clip_model.safetensors")
        assert load_file(weights[name])
    return weights


@pytest.fixture
def tables(tmp_path):
    """Nine items in no order; item 2 has no picture, item 3 a broken one. The table of pictures has others too."""
    rows = [(item, f"k{item}", "", "", [], item != 2, 5) for item in (4, 1, 0, 2, 3, 8, 5, 7, 6)]
    write_table(tmp_path / "items.parquet", pl.DataFrame(rows, schema=ITEMS, orient="row"), ITEMS)
    files = {f"k{item}": picture(item) for item in (11, 0, 1, 3, 10, 4, 5, 6, 7, 8)}
    files["k3"] = files["k3"][:99]
    images = [(key, file, 48, 48, "ok", "") for key, file in files.items()] + [("k2", None, 0, 0, "missing", "404")]
    write_table(tmp_path / "images.parquet", pl.DataFrame(images, schema=IMAGES, orient="row"), IMAGES)
    return tmp_path / "items.parquet", tmp_path / "images.parquet"


@pytest.fixture
def embed(tables, tmp_path, params_file):
    """Run the stage with changed parameters; return its table and its metrics."""

    def run(changes=None):
        paths = tmp_path / "vectors.parquet", tmp_path / "encoder", tmp_path / "metrics.json"
        main(*tables, tmp_path / "backbone", *paths, params_file(changes))
        return read_table(paths[0], VECTORS), json.loads(paths[2].read_text())

    return run


def matrix(table):
    return table["vector"].to_numpy()


def with_clip(clips, model="small", **changes):
    named = {"image.encoder": "open_clip", "image.model": model, "image.checkpoint": clips.get(model), "device": "cpu"}
    return named | {f"image.{name}": value for name, value in changes.items()}


@pytest.mark.parametrize("encoder", ["descriptors", "open_clip"])
def test_each_item_has_a_vector_in_the_order_of_items(embed, clips, encoder):
    table, metrics = embed({"image.dimensions": 5} if encoder == "descriptors" else with_clip(clips))
    assert table["item"].to_list() == list(range(9))
    assert table["present"].to_list() == [item not in (2, 3) for item in range(9)]
    width = 5 if encoder == "descriptors" else 12
    counts = {"items": 9, "present": 7, "missing": pytest.approx(2 / 9), "width": width, "pictures_lost": 1}
    assert metrics == counts
    present = table["present"].to_numpy()
    for absent in (2, 3):
        np.testing.assert_allclose(matrix(table)[absent], matrix(table)[present].mean(axis=0), atol=1e-6)
    assert len(np.unique(matrix(table)[present], axis=0)) == 7


def test_a_modality_that_is_not_used_is_an_empty_table(embed):
    table, metrics = embed({**TEXT_ALONE, "image.encoder": "open_clip"})
    assert table.height == 0
    assert dict(table.schema) == VECTORS
    assert metrics == {"items": 0}


def test_the_same_parameters_write_the_same_bytes_whatever_the_seed(embed, tmp_path):
    written = []
    for seed in (0, 0, 1):
        embed({"seed": seed})
        written.append((tmp_path / "vectors.parquet").read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("encoder", ["descriptors", "open_clip"])
def test_pictures_that_are_taken_away_are_not_lost(embed, clips, encoder):
    """Of items 0 to 8 a third is taken away, whether there was a picture or not."""
    changes = {"image.dimensions": 2} if encoder == "descriptors" else with_clip(clips)
    usual, _ = embed(changes)
    worse, metrics = embed(changes | {"image.missing": 1 / 3})
    keys = pl.Series([f"k{item}" for item in range(9)])
    taken = set(drawn(keys, share=1 / 3, purpose="image missing", seed=0).tolist())
    assert len(taken) == metrics["made_missing"] == 3
    assert {item for item in range(9) if not worse["present"][item]} == taken | {2, 3}
    assert metrics["pictures_lost"] == (3 not in taken)
    if encoder == "open_clip":
        kept = worse["present"].to_numpy()
        np.testing.assert_allclose(matrix(worse)[kept], matrix(usual)[kept], atol=1e-6)


def test_a_trained_backbone_embeds_what_pictures_there_are(embed, tables, tmp_path):
    with pytest.raises(CheckpointError, match="backbone: expected a backbone and its weights"):
        embed(RQ_DINO)
    torch.manual_seed(0)
    shape = Shape("vit_tiny_patch16_224", size=16, patch=8, width=12, layers=1, heads=2)
    backbone = new_backbone(shape, checkpoint=None, sides={})
    (tmp_path / "backbone").mkdir()
    save_backbone(backbone, tmp_path / "backbone")
    table, metrics = embed(RQ_DINO)
    assert table["present"].to_list() == [item not in (2, 3) for item in range(9)]
    assert metrics == {"items": 9, "present": 7, "missing": pytest.approx(2 / 9), "width": 12, "pictures_lost": 1}
    (seen,) = squared_pictures(tables[1], pl.Series(["k4"]), side=16, batch_size=9)
    expected = backbone.eval()(channels_first(torch.from_numpy(seen))).detach().numpy()
    np.testing.assert_allclose(matrix(table)[4:5], expected, atol=1e-5)
    np.testing.assert_allclose(matrix(embed(RQ_DINO | {"image.batch_size": 2})[0]), matrix(table), atol=1e-5)


def test_every_encoder_asks_for_the_same_precision(embed, clips, tmp_path, monkeypatch):
    """As texts do, which `tessera add-items` embeds in the same process: accelerate allows one in each."""
    asked = []

    def accelerator(device, *, precision):
        asked.append(precision)
        return accelerator_on(device, precision=precision)

    monkeypatch.setattr("tessera.encoders.image.accelerator_on", accelerator)
    torch.manual_seed(0)
    shape = Shape("vit_tiny_patch16_224", size=16, patch=8, width=12, layers=1, heads=2)
    (tmp_path / "backbone").mkdir()
    save_backbone(new_backbone(shape, checkpoint=None, sides={}), tmp_path / "backbone")
    embed(RQ_DINO)
    embed(with_clip(clips))
    assert asked == ["auto", "auto"]


def test_a_model_of_timm_embeds_what_pictures_there_are(embed, tmp_path, caplog):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    checkpoint = str(tmp_path / "weights.safetensors")
    named = {"image.encoder": "timm", "image.model": "test_resnet", "image.checkpoint": checkpoint, "device": "cpu"}
    table, metrics = embed(named | {"image.watch": checkpoint})
    assert caplog.messages == []
    assert table["present"].to_list() == [item not in (2, 3) for item in range(9)]
    width = timm.create_model("test_resnet").num_features
    assert metrics == {"items": 9, "present": 7, "missing": pytest.approx(2 / 9), "width": width, "pictures_lost": 1}
    assert len(np.unique(matrix(table)[table["present"].to_numpy()], axis=0)) == 7


@pytest.mark.parametrize("change", ["model", "checkpoint", "encoder"])
def test_what_changes_the_vectors_of_a_model(embed, clips, change):
    usual = matrix(embed(with_clip(clips))[0])
    changes = {
        "model": with_clip(clips, "wide"),
        "checkpoint": with_clip(clips, checkpoint=clips["small2"]),
        "encoder": with_clip(clips, encoder="descriptors"),
    }
    changed = matrix(embed(changes[change])[0])
    assert usual.shape != changed.shape or np.abs(usual - changed).max() > 1e-3


@pytest.mark.parametrize(("name", "value"), [("batch_size", 1), ("dimensions", 2)])
def test_what_does_not_change_the_vectors_of_a_model(embed, clips, name, value):
    usual = matrix(embed(with_clip(clips))[0])
    np.testing.assert_allclose(matrix(embed(with_clip(clips, **{name: value}))[0]), usual, atol=1e-5)


@pytest.mark.parametrize("encoder", ["descriptors", "open_clip"])
def test_batch_size_is_how_many_pictures_are_read_together(embed, clips, monkeypatch, encoder):
    told = []
    monkeypatch.setattr(
        "tessera.encoders.image.progress", lambda elements, *, title, total: told.append((title, total)) or elements
    )
    for batch_size in (1, 4, 100):
        embed(with_clip(clips, encoder=encoder, batch_size=batch_size))
    assert told == [("pictures", 9), ("pictures", 3), ("pictures", 1)]


@pytest.mark.parametrize(("dimensions", "width"), [(3, 3), (1000, 6)])
def test_dimensions_are_the_width_of_descriptors(embed, dimensions, width):
    table, metrics = embed({"image.dimensions": dimensions})
    assert metrics["width"] == matrix(table).shape[1] == width


def test_precomputed_vectors_come_from_the_path(embed, tmp_path):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        vectors = [[item + shift, 1.0] for item in range(9)]
        table = pl.DataFrame({"item": [f"k{item}" for item in range(9)], "vector": vectors})
        table.write_parquet(tmp_path / f"{name}.parquet")
        found, metrics = embed({"image.encoder": "precomputed", "image.path": str(tmp_path / f"{name}.parquet")})
        assert matrix(found).tolist() == vectors
        assert metrics == {"items": 9, "present": 9, "missing": 0, "width": 2, "pictures_lost": 0}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image.encoder": "precomputed", "image.path": "nowhere"}, SourceError, "nowhere: expected a Parquet file"),
        ({"image.encoder": "open_clip"}, ParamsError, "image.model, as image.encoder is open_clip: expected"),
        ({"image.encoder": "open_clip", "image.model": "ViT-B-32"}, SourceError, "found 'ViT-B-32' and None"),
        ({"image.encoder": "timm"}, ParamsError, "image.model, as image.encoder is timm: expected"),
        (
            {"image.encoder": "timm", "image.model": "test_resnet"},
            ParamsError,
            "image.checkpoint, as image.encoder is timm: expected",
        ),
        (
            {"image.encoder": "timm", "image.model": "test_resnet", "image.checkpoint": "nowhere"},
            SourceError,
            "found 'test_resnet' and 'nowhere'",
        ),
        (
            {"image.encoder": "open_clip", "image.model": "ViT-B-32", "device": "abacus"},
            ParamsError,
            "device: expected auto",
        ),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(embed, tmp_path, changes, error, message):
    before = set(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        embed(changes)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "params.yaml"}


def test_a_checkpoint_that_nobody_watches_is_warned_of(embed, clips, caplog):
    folder = str(Path(clips["small"]).parent)
    with caplog.at_level(logging.WARNING, logger="tessera"):
        embed(with_clip(clips, watch=folder))
        embed(with_clip(clips, model=f"local-dir:{folder}", checkpoint=None, watch=folder))
        assert caplog.messages == []
        embed(with_clip(clips))
        embed(with_clip(clips, model=f"local-dir:{folder}", checkpoint=None))
    assert [message.partition(": ")[::2] for message in caplog.messages] == [
        (path, "DVC does not see when it changes: set image.watch to it, or to its folder")
        for path in (clips["small"], folder)
    ]


@pytest.mark.parametrize("encoder", ["descriptors", "open_clip"])
def test_a_catalogue_without_pictures_is_an_error(embed, clips, tables, encoder):
    pl.read_parquet(tables[1]).with_columns(picture=pl.lit(None, pl.Binary)).write_parquet(tables[1])
    with pytest.raises(DataError, match="image: expected "):
        embed(with_clip(clips, encoder=encoder))


def test_another_table_is_an_error(embed, tables):
    pl.DataFrame({"key": ["a"]}).write_parquet(tables[1])
    with pytest.raises(TableError, match=r"images\.parquet: expected a table of key and picture"):
        embed()


def test_descriptors_need_no_torch(tables, tmp_path, params_file):
    paths = {
        "items": tables[0],
        "images": tables[1],
        "backbone": tmp_path / "nowhere",
        "vectors": tmp_path / "v.parquet",
        "encoder": tmp_path / "e",
        "metrics": tmp_path / "m.json",
        "params": params_file(),
    }
    command = ["stages/embed_images.py", *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]
    code = (
        f"import sys, runpy; sys.argv = {command!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'open_clip', 'timm', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert (tmp_path / "v.parquet").is_file()
