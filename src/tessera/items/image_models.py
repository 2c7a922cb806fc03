"""Embed what items look like by a network: any model of `open_clip` or of `timm`, or a backbone that was trained here.

An item without a picture, or with one that cannot be decoded, is absent.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import polars as pl
from PIL import Image

from tessera.errors import ParamsError, SourceError
from tessera.items.encoding import dtype_on
from tessera.items.image_encoders import Floats, Pixels, embedded, squared
from tessera.items.progress import Progress, silently
from tessera.items.vectors import Vectors

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor

Library = Literal["open_clip", "timm"]

#: What a model of each library is, in its own words.
KINDS: dict[Library, str] = {"open_clip": "an open_clip architecture", "timm": "a model of timm"}


class Model(NamedTuple):
    """A network as its library has it."""

    encode: "Callable[[Tensor], Tensor]"  # of pictures (B, 3, H, W) vectors (B, D)
    prepare: "Callable[[Image.Image], Tensor]"  # of a picture its (3, H, W)


def modelled(
    path: Path,
    keys: pl.Series,
    *,
    library: Library,
    model: str | None,
    checkpoint: str | None,
    batch_size: int,
    accelerator: "Accelerator",
    progress: Progress = silently,
    scratch: Path | None = None,
) -> Vectors:
    """Return the image embeddings (N, D) that a model of library gives the pictures at path of the items with keys.

    In open_clip, model is an architecture and checkpoint one of its published tags or a local file, and `hf-hub:NAME`
    and `local-dir:FOLDER` as model come with their own. In timm, model is any name that it knows, whose pooled features
    are the embedding, and checkpoint is `published` or a local file. Files are safetensors, or hold nothing but
    weights. Pictures go through the model's own preprocessing. On a GPU with bf16 the model computes in it.

    Raises ParamsError where no model is named, SourceError where it cannot be loaded.
    """
    import torch

    if model is None:
        raise ParamsError(f"image.model: expected {KINDS[library]}, found nothing")
    load = {"open_clip": _from_open_clip, "timm": _from_timm}[library]
    network = load(model, checkpoint, accelerator=accelerator)

    def encode(pixels: "list[torch.Tensor]") -> Floats:
        with torch.inference_mode():
            images = torch.stack(pixels).to(accelerator.device, dtype_on(accelerator))  # (B, 3, H, W)
            vectors: Floats = network.encode(images).float().cpu().numpy()
        return vectors

    return embedded(
        path,
        keys,
        network.prepare,
        encode,
        batch_size=batch_size,
        accelerator=accelerator,
        progress=progress,
        scratch=scratch,
    )


def distilled(
    path: Path,
    keys: pl.Series,
    *,
    backbone: Path,
    batch_size: int,
    accelerator: "Accelerator",
    progress: Progress = silently,
    scratch: Path | None = None,
) -> Vectors:
    """Return what the backbone in that folder, a teacher of `distillation`, makes (N, D) of the items' pictures.

    It computes in fp32, whatever the accelerator's precision: the vectors are to have the codes that its training saw.

    Raises CheckpointError where the folder holds none.
    """
    import torch

    from tessera.items.backbones import channels_first, load_backbone

    network = load_backbone(backbone).to(accelerator.device)

    def encode(pixels: list[Pixels]) -> Floats:
        with torch.inference_mode():
            pictures = torch.from_numpy(np.stack(pixels)).to(accelerator.device)  # (B, S, S, 3)
            vectors: Floats = network(channels_first(pictures)).cpu().numpy()
        return vectors

    prepare = partial(squared, side=network.shape.size)
    return embedded(
        path,
        keys,
        prepare,
        encode,
        batch_size=batch_size,
        accelerator=accelerator,
        progress=progress,
        scratch=scratch,
    )


def _from_open_clip(model: str, checkpoint: str | None, *, accelerator: "Accelerator") -> Model:
    import open_clip
    from safetensors import SafetensorError

    try:
        network, prepare = open_clip.create_model_from_pretrained(
            model,
            checkpoint,
            precision="bf16" if accelerator.mixed_precision == "bf16" else "fp32",
            device=accelerator.device,
            weights_only=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        raise SourceError(
            f"image.model, image.checkpoint: expected {KINDS['open_clip']} and a published tag or a file of its "
            f"weights, found {model!r} and {checkpoint!r}: {error}"
        ) from error
    return Model(network.eval().encode_image, prepare)


def _from_timm(model: str, checkpoint: str | None, *, accelerator: "Accelerator") -> Model:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    from tessera.items.backbones import PUBLISHED, is_checkpoint, pretrained

    expected = f"expected {KINDS['timm']}, and {PUBLISHED} or a file of its weights"
    found = f"found {model!r} and {checkpoint!r}"
    if checkpoint is None or not is_checkpoint(checkpoint):
        raise SourceError(f"image.model, image.checkpoint: {expected}, {found}")
    try:
        network = pretrained(partial(timm.create_model, model), checkpoint)
    except Exception as error:  # weights come from the network or from any file
        raise SourceError(f"image.model, image.checkpoint: {expected}, {found}: {error}") from error
    prepare = create_transform(**resolve_model_data_config(network), is_training=False)
    return Model(network.to(accelerator.device, dtype_on(accelerator)).eval(), prepare)
