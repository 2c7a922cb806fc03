"""Drive an encoder over batches of items, alone or shared among the processes that `torchrun` started."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tessera.items.progress import Progress, silently
from tessera.items.vectors import Vectors, room

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
    scratch: Path | None = None,
) -> Vectors:
    """Return the vectors (rows, D) that encode gives for the batches, of which there are about count.

    A batch may come back with fewer rows than it had; a row that never comes back is absent. With an accelerator of
    P processes each encodes every P-th batch, and all return everything. The vectors are in memory or, if a folder
    scratch is given, in a file there.
    """
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = islice(batches, first, None, step)
    found = _placed(map(encode, progress(mine, title=title, total=-(-count // step))), rows=rows, scratch=scratch)
    if accelerator is None or step == 1:
        return found
    return _of_all_processes(found, accelerator, scratch=scratch)


def _placed(parts: Iterator[Part], *, rows: int, scratch: Path | None) -> Vectors:
    vectors = room(rows, 0, scratch=None)
    present = np.zeros(rows, np.bool_)
    for part in parts:
        if not len(part.rows):
            continue
        if not present.any():
            vectors = room(rows, part.vectors.shape[1], scratch=scratch)
        vectors[part.rows], present[part.rows] = part.vectors, True
    return Vectors(vectors, present)


def _of_all_processes(found: Vectors, accelerator: "Accelerator", *, scratch: Path | None) -> Vectors:
    """Return the sum of what the processes found: what one has, the others have as zeros."""
    import torch

    count, own = found.vectors.shape
    width = int(accelerator.gather(torch.tensor([own], device=accelerator.device)).max())
    vectors = found.vectors if own == width else room(count, width, scratch=scratch)
    for start in range(0, count, EXCHANGED_ROWS):
        rows = slice(start, start + EXCHANGED_ROWS)
        mine = torch.from_numpy(np.column_stack([vectors[rows], found.present[rows]])).to(accelerator.device)
        whole = accelerator.reduce(mine, reduction="sum").cpu().numpy()
        vectors[rows], found.present[rows] = whole[:, :width], whole[:, width] > 0
    return Vectors(vectors, found.present)
