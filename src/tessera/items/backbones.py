"""Vision transformers of the `timm` library, built by name: what turns a picture into a vector that is still to learn.

Nothing is downloaded unless published weights are asked for. Pictures (B, S, S, 3) come in as bytes.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tessera.errors import CheckpointError, ParamsError, SourceError

#: Stands for a checkpoint: the weights that timm publishes under the backbone's name.
PUBLISHED = "published"

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
BRIGHTEST = 255


class Shape(NamedTuple):
    """Which backbone, named as in params.yaml. None: as the name says."""

    backbone: str  # a model of timm
    size: int  # S, the side of a picture in pixels
    patch: int | None  # the side of a patch in pixels
    width: int | None  # of a state
    layers: int | None
    heads: int | None


class Backbone(nn.Module):
    """A vision transformer without a classifier; it takes pictures of other sides than S too, as views are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape, network: nn.Module) -> None:
        super().__init__()
        self.shape, self.network = shape, network
        known: Any = network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(known["mean"])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(known["std"])[:, None, None], persistent=False)

    @property
    def width(self) -> int:
        """D, the width of a representation."""
        return int(self.network.num_features)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the representations (B, D) of pictures (B, 3, s, s) in [0, 1]; s is a multiple of the patch."""
        found: Tensor = self.network((pictures - self.mean) / self.deviation)
        return found


def channels_first(pictures: Tensor) -> Tensor:
    """Return pictures (B, S, S, 3) of bytes as floats (B, 3, S, S) in [0, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / BRIGHTEST


def new_backbone(shape: Shape, *, checkpoint: str | None, sides: dict[str, int]) -> Backbone:
    """Return a backbone with weights from checkpoint: None draws them, PUBLISHED fetches timm's, a path is a file.

    Draws come from torch's own generator, which the caller seeds. A file is safetensors, or a .pt of nothing but
    weights. sides are those that pictures are to have, by the parameter that says so.

    Raises ParamsError where there is no such vision transformer or its patches do not fill a side, and SourceError
    where its weights cannot be had.
    """
    if checkpoint is not None and not is_checkpoint(checkpoint):
        raise SourceError(f"distill.checkpoint: expected {PUBLISHED} or a file of weights, found {checkpoint!r}")
    if checkpoint is not None:
        _built(shape)  # what is wrong with the shape is not the checkpoint's fault
        try:
            network = pretrained(partial(_network, shape), checkpoint)
        except Exception as error:  # weights come from the network or from any file
            raise SourceError(
                f"distill.checkpoint: expected weights of {shape.backbone}, found {checkpoint!r}: {error}"
            ) from error
    else:
        network = _built(shape)
    _require_patches(network, sides)
    return Backbone(shape, network)


def is_checkpoint(checkpoint: str) -> bool:
    """Whether `pretrained` can have weights from there: PUBLISHED, or the path of a file."""
    return checkpoint == PUBLISHED or Path(checkpoint).is_file()


def pretrained(create: Callable[..., nn.Module], checkpoint: str) -> nn.Module:
    """Return the network that create, a `timm.create_model` of something, makes with those weights; no classifier.

    It is made with one, since without it timm would not miss weights that a file lacks. Raises whatever timm raises:
    weights come from the network or from any file.
    """
    overlay = None if checkpoint == PUBLISHED else {"file": checkpoint}
    network: Any = create(pretrained=True, pretrained_cfg_overlay=overlay)
    network.reset_classifier(0)
    return cast("nn.Module", network)


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write backbone into folder, which exists."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(backbone.shape._asdict(), indent=2) + "\n")


def load_backbone(folder: Path) -> Backbone:
    """Return the backbone saved in folder, on the CPU and in evaluation mode.

    Raises CheckpointError where there is none or it is damaged.
    """
    try:
        shape = Shape(**json.loads((folder / CONFIG).read_text()))
        backbone = Backbone(shape, _built(shape))
        backbone.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, ParamsError) as error:
        raise CheckpointError(f"{folder}: expected a backbone and its weights: {error}") from error
    return backbone.eval()


def _built(shape: Shape) -> nn.Module:
    try:
        return _network(shape, num_classes=0)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ParamsError(
            f"distill.backbone: expected a vision transformer of timm that can have these sizes, "
            f"found {shape.backbone!r}: {type(error).__name__}: {error}"
        ) from error


def _network(shape: Shape, **source: Any) -> nn.Module:
    network: nn.Module = timm.create_model(
        shape.backbone,
        img_size=shape.size,
        dynamic_img_size=True,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.layers,
        num_heads=shape.heads,
        **source,
    )
    return network


def _require_patches(network: nn.Module, sides: dict[str, int]) -> None:
    patch = int(network.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
    for key, side in sides.items():
        if side % patch:
            raise ParamsError(f"{key}: expected a multiple of the backbone's patch of {patch}, found {side}")
