"""What this island asks of the vectors of a modality: their shape, and some of their rows at a time."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Rows(Protocol):
    """Vectors (N, D), in memory or not: a tensor is one, and so is a file that is read row by row."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""
        ...

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the vectors (B, D) of rows: their numbers (B,), on the CPU unless the vectors lie elsewhere."""
        ...


class Collaborative(NamedTuple):
    """What a collaborative model has learned of all items."""

    vectors: Rows  # (N, C)
    present: Tensor  # (N,) whether it has seen the item
