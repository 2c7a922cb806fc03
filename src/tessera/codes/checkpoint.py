"""A quantizer as a folder: weights.safetensors, and config.json with what is needed to build it again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.codes.quantizer import Architecture, CrossModalQuantizer
from tessera.errors import CheckpointError

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


def save(quantizer: CrossModalQuantizer, folder: Path) -> None:
    """Write quantizer into folder, which exists."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _named(quantizer).items()}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(quantizer.architecture), indent=2) + "\n")


def load(folder: Path, *, codebook_size: int) -> CrossModalQuantizer:
    """Return the quantizer saved in folder, on the CPU.

    Raises CheckpointError where a file is missing or unreadable, where weights and config do not belong together, or
    where the quantizer has codebooks of another size than the one expected.
    """
    quantizer = CrossModalQuantizer(_architecture(folder / CONFIG))
    if quantizer.architecture.codebook_size != codebook_size:
        raise CheckpointError(
            f"{folder / CONFIG}: expected codebook_size {codebook_size}, as quant.codebook_size says, "
            f"found {quantizer.architecture.codebook_size}"
        )
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in _named(quantizer).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name}: expected {_shape(expected.get(name))}, as {CONFIG} says, "
                f"found {_shape(found.get(name))}"
            )
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(f"{folder / WEIGHTS}: {name}: expected finite numbers, found some that are not")
    with torch.no_grad():
        for name, tensor in _named(quantizer).items():
            tensor.copy_(weights[name])
    return quantizer.eval()


def _named(quantizer: CrossModalQuantizer) -> dict[str, Tensor]:
    """Return every weight under its modality's name: text.codebooks, text.encoder.0.weight, ..."""
    return {
        f"{modality}.{name}": tensor
        for modality in quantizer.modalities
        for name, tensor in quantizer.of(modality).state_dict(keep_vars=True).items()
    }


def _architecture(path: Path) -> Architecture:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    expected = Architecture.__dataclass_fields__.keys()
    if not isinstance(document, dict) or document.keys() != expected or not _is_sound(document):
        raise CheckpointError(f"{path}: expected the {', '.join(expected)} of a quantizer, found {document}")
    return Architecture(**{**document, "hidden": tuple(document["hidden"])})


def _is_sound(document: dict[str, Any]) -> bool:
    widths, hidden = document["widths"], document["hidden"]
    if not isinstance(widths, dict) or not isinstance(hidden, list) or not widths:
        return False
    numbers = [*widths.values(), *hidden, *(document[key] for key in ("levels", "codebook_size", "latent_dim"))]
    is_known = document["method"] in ("rqvae", "rkmeans") and isinstance(document["projection"], bool)
    return is_known and all(type(n) is int and n > 0 for n in numbers)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"
