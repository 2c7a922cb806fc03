import json
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import open_clip
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tessera.errors import ParamsError, SourceError
from tessera.items.image_encoders import decoded
from tessera.items.image_models import modelled
from tests.stored_pictures import KEYS, PRESENT
from tests.tiny_models import CLIP, clip_folder

CPU = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no", process_index=0, num_processes=1)
embed = partial(modelled, batch_size=3, accelerator=CPU)
clip = partial(embed, library="open_clip")
timm_model = partial(embed, library="timm")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny `open_clip` model in a folder of its own, and its architecture under the name `tiny`."""
    torch.manual_seed(0)
    folder = clip_folder(tmp_path_factory.mktemp("clip") / "model")
    (folder / "tiny.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "tiny.json")
    weights = load_file(folder / "open_clip_model.safetensors")
    torch.save(weights, folder / "weights.pt")
    return folder


def clip_one_at_a_time(folder, pictures):
    """The twin: one picture at a time, with neither batches nor threads."""
    network, preprocess = open_clip.create_model_from_pretrained("tiny", str(folder / "weights.pt"))
    with torch.no_grad():
        return np.stack([network.eval().encode_image(preprocess(picture)[None])[0].numpy() for picture in pictures])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "weights.pt"])
def test_clip_in_batches_equals_one_picture_at_a_time(pictures, checkpoint, weights, batch_size):
    found = clip(pictures, KEYS, model="tiny", checkpoint=str(checkpoint / weights), batch_size=batch_size)
    assert found.present.tolist() == PRESENT
    files = dict(pl.read_parquet(pictures).select("key", "picture").rows())
    expected = clip_one_at_a_time(checkpoint, [decoded(files[key]) for key in KEYS.filter(pl.Series(PRESENT))])
    np.testing.assert_allclose(found.vectors[found.present], expected, atol=1e-5)


def test_clip_from_a_folder_uses_the_preprocessing_that_lies_there(pictures, checkpoint):
    own = clip(pictures, KEYS, model=f"local-dir:{checkpoint}", checkpoint=None).vectors
    usual = clip(pictures, KEYS, model="tiny", checkpoint=str(checkpoint / "weights.pt")).vectors
    assert own.shape == usual.shape
    assert np.abs(own - usual).max() > 1e-3


def test_clip_in_bf16_is_near_fp32(pictures, checkpoint):
    exact = clip(pictures, KEYS, model="tiny", checkpoint=str(checkpoint / "weights.pt")).vectors
    accelerator = SimpleNamespace(**{**vars(CPU), "mixed_precision": "bf16"})
    coarse = clip(
        pictures, KEYS, model="tiny", checkpoint=str(checkpoint / "weights.pt"), accelerator=accelerator
    ).vectors
    assert 0 < np.abs(coarse - exact).max() < 0.1 * np.abs(exact).max()


def test_a_clip_model_must_be_named(pictures):
    with pytest.raises(ParamsError, match="model: expected an open_clip architecture, found nothing"):
        clip(pictures, KEYS, model=None, checkpoint=None)


@pytest.mark.parametrize(
    ("model", "weights"),
    [("no-such", "weights.pt"), ("tiny", "no-such.pt"), ("tiny", None), ("tiny", "half.pt"), ("tiny", "other.pt")],
)
def test_a_clip_model_that_cannot_be_had_is_an_error(pictures, checkpoint, model, weights):
    whole = torch.load(checkpoint / "weights.pt", weights_only=True)
    torch.save(dict(list(whole.items())[:5]), checkpoint / "half.pt")
    (checkpoint / "other.pt").write_text("no weights")
    path = weights and str(checkpoint / weights)
    with pytest.raises(SourceError, match=f"expected an open_clip architecture .* found '{model}' and "):
        clip(pictures, KEYS, model=model, checkpoint=path)


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """The weights of a tiny model of `timm`, `test_efficientnet`, in the forms that they come in."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    weights = timm.create_model("test_efficientnet").state_dict()
    save_file(weights, folder / "weights.safetensors")
    torch.save(weights, folder / "weights.pth")
    torch.save(dict(list(weights.items())[:5]), folder / "half.pth")
    (folder / "other.pth").write_text("no weights")
    return folder


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("weights", ["weights.safetensors", "weights.pth"])
def test_a_timm_models_features_are_pooled_behind_its_own_preprocessing(pictures, efficientnet, weights, batch_size):
    """The twin: one picture at a time, what the model makes of it before its classifier."""
    found = timm_model(
        pictures, KEYS, model="test_efficientnet", checkpoint=str(efficientnet / weights), batch_size=batch_size
    )
    assert found.present.tolist() == PRESENT
    network = timm.create_model("test_efficientnet", checkpoint_path=str(efficientnet / "weights.safetensors")).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config(model=network), is_training=False)
    files = dict(pl.read_parquet(pictures).select("key", "picture").rows())
    with torch.no_grad():
        seen = [prepare(decoded(files[key]))[None] for key in KEYS.filter(pl.Series(PRESENT))]
        expected = [network.forward_head(network.forward_features(one), pre_logits=True)[0].numpy() for one in seen]
    np.testing.assert_allclose(found.vectors[found.present], np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "checkpoint"),
    [
        ("no_such", "weights.pth"),
        ("test_efficientnet", "no-such.pth"),
        ("test_efficientnet", None),
        ("test_efficientnet", "half.pth"),
        ("test_efficientnet", "other.pth"),
        ("test_resnet", "weights.pth"),
    ],
)
def test_a_timm_model_that_cannot_be_had_is_an_error(pictures, efficientnet, model, checkpoint):
    path = checkpoint and str(efficientnet / checkpoint)
    with pytest.raises(SourceError, match=f"expected a model of timm, and published or .* found '{model}' and "):
        timm_model(pictures, KEYS, model=model, checkpoint=path)


def test_a_timm_model_must_be_named(pictures):
    with pytest.raises(ParamsError, match="model: expected a model of timm, found nothing"):
        timm_model(pictures, KEYS, model=None, checkpoint="published")


def test_published_weights_are_asked_of_timm(pictures, efficientnet, monkeypatch):
    """Where they would be fetched from, the file of a test stands."""
    asked, create = [], timm.create_model

    def created(model, *, pretrained, pretrained_cfg_overlay):
        asked.append((model, pretrained, pretrained_cfg_overlay))
        held = {"file": str(efficientnet / "weights.safetensors")}
        return create(model, pretrained=pretrained, pretrained_cfg_overlay=held)

    from_file = timm_model(
        pictures, KEYS, model="test_efficientnet", checkpoint=str(efficientnet / "weights.safetensors")
    )
    monkeypatch.setattr(timm, "create_model", created)
    published = timm_model(pictures, KEYS, model="test_efficientnet", checkpoint="published")
    assert asked == [("test_efficientnet", True, None)]
    np.testing.assert_array_equal(published.vectors, from_file.vectors)


class Harm:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("library", "model", "message"),
    [
        ("open_clip", "tiny", "expected an open_clip architecture"),
        ("timm", "test_efficientnet", "expected a model of timm"),
    ],
)
def test_a_checkpoint_with_code_is_refused(pictures, tmp_path, library, model, message):
    torch.save({"weight": torch.zeros(1), "harm": Harm(tmp_path / "harm")}, tmp_path / "harmful.pt")
    (tmp_path / "harmful.pkl").write_bytes(pickle.dumps(Harm(tmp_path / "harm"), protocol=2))
    for name in ("harmful.pt", "harmful.pkl"):
        with pytest.raises(SourceError, match=message):
            embed(pictures, KEYS, library=library, model=model, checkpoint=str(tmp_path / name))
    assert not (tmp_path / "harm").exists()
