"""Drive an encoder over batches of items, alone or shared among the processes that `torchrun` started."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera.items.progress import Progress, silently
from tessera.items.vectors import Vectors

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Batch = TypeVar("Batch")

#: Rows that processes exchange at once: bounds the memory this takes beside the vectors.
EXCHANGED_ROWS = 16384


class Part(NamedTuple):
    """The vectors of some rows."""

    rows: NDArray[np.integer]  # (B,)
    vectors: NDArray[np.float32]  # (B, D)


def dtype_on(accelerator: "Accelerator") -> "torch.dtype":
    """Return what a model computes in there: bf16 or fp32."""
    import torch

    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def encode_all(
    batches: Iterable[Batch],
    encode: Callable[[Batch], Part],
    *,
    rows: int,
    count: int,
    title: str,
    accelerator: "Accelerator | None" = None,
    progress: Progress = silently,
) -> Vectors:
    """Return the vectors (rows, D) that encode gives for the batches, of which there are about count.

    A batch may come back with fewer rows than it had; a row that never comes back is absent. With an accelerator of
    P processes each encodes every P-th batch, and all return everything.
    """
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = islice(batches, first, None, step)
    found = _placed(map(encode, progress(mine, title=title, total=-(-count // step))), rows=rows)
    if accelerator is None or step == 1:
        return found
    return _of_all_processes(found, accelerator)


def _placed(parts: Iterator[Part], *, rows: int) -> Vectors:
    vectors = np.zeros((rows, 0), np.float32)
    present = np.zeros(rows, np.bool_)
    for part in parts:
        if not len(part.rows):
            continue
        if not present.any():
            vectors = np.zeros((rows, part.vectors.shape[1]), np.float32)
        vectors[part.rows], present[part.rows] = part.vectors, True
    return Vectors(vectors, present)


def _of_all_processes(found: Vectors, accelerator: "Accelerator") -> Vectors:
    """Return the sum of what the processes found: what one has, the others have as zeros."""
    import torch

    own = torch.tensor([found.vectors.shape[1]], device=accelerator.device)
    width = int(accelerator.gather(own).max())
    vectors = np.zeros((len(found.present), width + 1), np.float32)
    vectors[:, : found.vectors.shape[1]] = found.vectors
    vectors[:, width] = found.present
    for start in range(0, len(vectors), EXCHANGED_ROWS):
        part = torch.from_numpy(vectors[start : start + EXCHANGED_ROWS]).to(accelerator.device)
        vectors[start : start + EXCHANGED_ROWS] = accelerator.reduce(part, reduction="sum").cpu().numpy()
    return Vectors(vectors[:, :width], vectors[:, width] > 0)
