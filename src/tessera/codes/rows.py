"""The vectors of a modality, in memory or not: what is asked of them, block by block, and those of all as one."""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tessera.errors import DataError

#: Numbers in one block of vectors, or of distances: 64 MiB of floats, whatever the number of items.
BLOCK = 2**24


class Rows(Protocol):
    """Vectors (N, D): a tensor is such, and so is a file that is read row by row."""

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


class Moments(NamedTuple):
    """Where vectors lie, and how far from there."""

    centre: Tensor  # (D,) their mean
    deviation: Tensor  # () the root of the mean square of a feature's distance from it; 1 where there is none


class Fused:
    """The vectors of several modalities as one vector an item, side by side: early fusion (MGR, arXiv 2503.23333).

    The paper does not say how they are made comparable. Here each modality is centred and scaled as a whole, so that
    all have the same say whatever their width, and the distances within each stay as they are. An item that lacks a
    modality has zeros there.
    """

    def __init__(self, parts: Mapping[str, Rows], present: Mapping[str, Tensor]) -> None:
        """Join parts, modality -> (N, D), of which those present (N,) count for the moments.

        Raises DataError where no item has some modality, or where vectors are not finite.
        """
        self._parts = list(parts.values())
        self._moments = [moments(rows, modality, present=present[modality]) for modality, rows in parts.items()]
        self.shape = (self._parts[0].shape[0], sum(rows.shape[1] for rows in self._parts))

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the vectors (B, D) of rows, each modality's share of their mean square the same."""
        scaled = [
            (part[rows] - known.centre) / (known.deviation * part.shape[1] ** 0.5)
            for part, known in zip(self._parts, self._moments, strict=True)
        ]
        return torch.cat(scaled, dim=1)


def rows_in_block(columns: int) -> int:
    """Return how many rows of so many columns a block of bounded size holds; at least one."""
    return max(1, BLOCK // columns)


def blocks_of(vectors: Rows) -> Iterator[slice]:
    """Yield the rows of vectors (N, D) as slices of a bounded size, in order."""
    count, width = vectors.shape
    rows = rows_in_block(width)
    return (slice(start, start + rows) for start in range(0, count, rows))


def moments(vectors: Rows, modality: str, *, present: Tensor) -> Moments:
    """Return the moments of those of a modality's vectors (N, D) that are present (N,), in single precision.

    Raises DataError where there are none, or where they are not finite.
    """
    count = int(present.sum())
    if count == 0:
        raise DataError(f"{modality}: expected an item that has this modality, found none among {len(present)}")

    def parts() -> Iterator[Tensor]:
        return (vectors[block][present[block].cpu()].double() for block in blocks_of(vectors))

    centre = functools.reduce(torch.add, (rows.sum(0) for rows in parts())) / count
    variance = functools.reduce(torch.add, ((rows - centre).square().mean(1).sum() for rows in parts())) / count
    if not torch.isfinite(variance):
        raise DataError(f"{modality}: expected finite vectors, found some that are not")
    return Moments(centre.float(), variance.sqrt().float() if variance > 0 else torch.ones(()))
