"""What an encoder learned of a catalogue, as a folder: so that items which come later are embedded as the others were.

weights.safetensors holds arrays by name, config.json the kind of the encoder and, where it knows any, its words. An
encoder that learns nothing of the catalogue has no arrays.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tessera.errors import CheckpointError

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


class Fitted(NamedTuple):
    """Arrays by name, and words in the order of the columns that are theirs."""

    kind: str
    arrays: Mapping[str, NDArray[Any]] = {}
    words: Sequence[str] = ()


def save_fitted(fitted: Fitted, folder: Path) -> None:
    """Write fitted into folder, which exists."""
    save_file({name: np.ascontiguousarray(array) for name, array in fitted.arrays.items()}, folder / WEIGHTS)
    document = {"kind": fitted.kind, "words": list(fitted.words)}
    (folder / CONFIG).write_text(json.dumps(document, indent=0, ensure_ascii=False) + "\n")


def load_fitted(folder: Path, *, kind: str) -> Fitted:
    """Return what save_fitted wrote; raise CheckpointError where it is missing, unreadable, or of another kind."""
    try:
        document = json.loads((folder / CONFIG).read_text())
        found, words = document["kind"], document["words"]
        arrays = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: expected what an encoder has learned, found none to read: {error}") from error
    if found != kind:
        raise CheckpointError(f"{folder / CONFIG}: expected an encoder of the kind {kind}, found {found}")
    return Fitted(found, arrays, words)
