"""Checkpoints to go on from after a kill.

They lie outside DVC's outputs, in one folder for each fingerprint of all that shapes the result.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tessera.artifacts import whole_file

CHUNK = 1 << 20


def fingerprint(values: Any, files: Iterable[Path]) -> str:
    """Return a digest of values (anything JSON can hold) and of the content of files."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


class CheckpointStore:
    """The last checkpoint of one training; a training of another fingerprint never sees it."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint[:32]
        self.file = self.folder / "last.pt"

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint saved, or None."""
        import torch

        if not self.file.is_file():
            return None
        checkpoint: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        return checkpoint

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Replace the last checkpoint, as a whole or not at all."""
        import torch

        with whole_file(self.file) as partial:
            torch.save(checkpoint, partial)

    def remove(self) -> None:
        """Remove the checkpoint: the training it belongs to is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
