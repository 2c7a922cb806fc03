"""Backbones are built by name, take pictures of several sides, and come back from a folder as they were."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from tessera.errors import CheckpointError, ParamsError, SourceError
from tessera.items.backbones import Shape, channels_first, load_backbone, new_backbone, save_backbone

TINY = Shape("vit_tiny_patch16_224", size=16, patch=4, width=12, layers=1, heads=2)
#: TINY, as timm has it.
SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
SIDES = {"distill.size": 16, "distill.local_size": 8}


def built(shape=TINY, checkpoint=None, sides=None, seed=0):
    torch.manual_seed(seed)
    return new_backbone(shape, checkpoint=checkpoint, sides=sides or SIDES).eval()


def test_a_name_and_sizes_make_a_backbone():
    backbone = built()
    assert backbone.width == 12
    assert len(backbone.network.blocks) == 1
    for side in (16, 8):
        assert backbone(torch.rand(3, 3, side, side)).shape == (3, 12)


def test_without_sizes_the_name_says_them():
    backbone = built(Shape("vit_tiny_patch16_224", 32, None, None, None, None), sides={"distill.size": 32})
    assert (backbone.width, len(backbone.network.blocks)) == (192, 12)


def test_bytes_become_channels_between_0_and_1():
    found = channels_first(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    assert found.shape == (1, 3, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([0, 0.2, 1]))


def test_a_backbone_comes_back_as_it_was(tmp_path):
    save_backbone(built(), tmp_path)
    loaded, pictures = load_backbone(tmp_path), torch.rand(2, 3, 16, 16)
    assert loaded.shape == TINY
    assert torch.equal(loaded(pictures), built()(pictures))


def test_a_local_file_gives_the_first_weights(tmp_path):
    """The weights of the same architecture, with a classifier that is left out, whatever the seed."""
    published = timm.create_model("vit_tiny_patch16_224", **SIZES).eval()
    file = tmp_path / "published.safetensors"
    save_file(published.state_dict(), file)
    for seed in (0, 1):
        found = built(checkpoint=str(file), seed=seed)
        assert torch.equal(found.network.blocks[0].mlp.fc1.weight, published.blocks[0].mlp.fc1.weight)
    pictures = torch.rand(2, 3, 16, 16)
    expected = published.forward_head(published.forward_features((pictures - 0.5) / 0.5), pre_logits=True)
    torch.testing.assert_close(found(pictures), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": "vit_of_nowhere"},
            r"distill\.backbone: expected a vision transformer .*'vit_of_nowhere'",
        ),
        ({"backbone": "resnet18"}, r"distill\.backbone: expected a vision transformer .* found 'resnet18'"),
        ({"heads": 5}, r"distill\.backbone: expected a vision transformer of timm that can have these sizes"),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    with pytest.raises(ParamsError, match=message):
        built(TINY._replace(**changes))


def test_a_side_that_patches_do_not_fill_is_named():
    with pytest.raises(ParamsError, match=r"distill\.local_size: expected a multiple of .* patch of 4, found 10"):
        built(sides={"distill.size": 16, "distill.local_size": 10})


def test_weights_that_cannot_be_had_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"distill\.checkpoint: expected published or a file of weights, found 'no'"):
        built(checkpoint="no")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    weights = timm.create_model("vit_tiny_patch16_224", **SIZES).state_dict()
    save_file(dict(list(weights.items())[:5]), tmp_path / "half.safetensors")
    for name in ("broken", "half"):
        with pytest.raises(SourceError, match=r"distill\.checkpoint: expected weights of vit_tiny_patch16_224, found"):
            built(checkpoint=str(tmp_path / f"{name}.safetensors"))


def test_a_folder_without_a_backbone_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="expected a backbone and its weights"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"backbone": "none"}))
    with pytest.raises(CheckpointError, match="expected a backbone and its weights"):
        load_backbone(tmp_path)
