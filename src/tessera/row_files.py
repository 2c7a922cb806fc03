"""Vectors, pictures and samples that stay on disk: rows that can be read in any order, however many there are.

Parquet is read from front to back; training wants its rows in an order that is new in each epoch. So they are laid
out once in a scratch file without a name, which vanishes with the process however that ends, and from which each row
is one read. What the system keeps of the file in its cache is its own affair and no part of the process.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tessera.errors import TableError

if TYPE_CHECKING:
    from torch import Tensor


class RowFile:
    """An array (N, ...) of numbers in a file, indexed like a tensor: by row numbers (B,) or a slice of rows."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: type[np.number[Any]] = np.float32) -> None:
        self._file, self._dtype = file, dtype
        self.shape = shape

    def __getitem__(self, rows: "Tensor | slice") -> "Tensor":
        """Return rows (B, ...), read now."""
        import torch

        count, *one = self.shape
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(count)
            found = np.empty((max(stop - start, 0), *one), self._dtype)
            self._read(found, start)
        else:
            found = np.empty((len(rows), *one), self._dtype)
            for place, row in zip(found, rows.tolist(), strict=True):
                self._read(place, row)
        return torch.from_numpy(found)

    def mapped(self) -> NDArray[Any]:
        """Return all rows (N, ...) as an array that the system reads when they are looked at; writing changes no file.

        It stays what it is when the file is closed.
        """
        return (
            np.asarray(np.memmap(self._file, self._dtype, "c", shape=self.shape)) if self.shape[0] else self[:].numpy()
        )

    def _read(self, into: NDArray[np.number[Any]], row: int) -> None:
        size = os.preadv(self._file.fileno(), [into.data], row * math.prod(self.shape[1:]) * into.itemsize)
        if size != into.nbytes:
            raise OSError(f"scratch file: expected {into.nbytes} bytes from row {row} on, found {size}")


class Spool:
    """Numbers written one after the other to a file without a name, and then looked at as one array."""

    def __init__(self, scratch: Path, dtype: type[np.number[Any]]) -> None:
        """Begin with none, in a file of the folder scratch."""
        scratch.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - open as long as this is
        self._dtype, self._count = dtype, 0

    def add(self, numbers: NDArray[np.number[Any]]) -> None:
        """Write further numbers (n,)."""
        self._file.write(np.ascontiguousarray(numbers, self._dtype).data)
        self._count += len(numbers)

    def whole(self) -> NDArray[Any]:
        """Return all numbers, which the system reads when they are looked at; writing to them changes no file."""
        with self._file:
            self._file.flush()
            return RowFile(self._file, (self._count,), self._dtype).mapped()


@contextmanager
def vector_rows(
    paths: Mapping[str, Path], *, scratch: Path, only_present: bool = False
) -> Iterator[dict[str, RowFile]]:
    """Give the column `vector` of each of the Parquet tables at paths, laid out in the folder scratch meanwhile.

    With only_present these are the vectors of the items that have the modality.

    Raises TableError where a table has a row without a vector.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield {
            name: _laid_out(path, stack.enter_context(tempfile.TemporaryFile(dir=scratch)), only_present=only_present)
            for name, path in paths.items()
        }


@contextmanager
def picture_rows(blocks: Iterable[NDArray[np.uint8]], *, side: int, scratch: Path) -> Iterator[RowFile]:
    """Give the pictures of blocks (B, side, side, 3), all N of them, laid out in the folder scratch meanwhile."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as file:
        count = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
        file.flush()
        yield RowFile(file, (count, side, side, 3), np.uint8)


def _laid_out(path: Path, file: IO[bytes], *, only_present: bool) -> RowFile:
    with pq.ParquetFile(path) as table:
        count, width = 0, table.schema_arrow.field("vector").type.list_size
        for number in range(table.num_row_groups):  # `iter_batches` would keep all that it has read until the end
            rows = table.read_row_group(number, columns=["vector", "present"] if only_present else ["vector"])
            for part in (rows.filter(rows["present"]) if only_present else rows).column("vector").chunks:
                values = part.flatten()
                if len(values) != len(part) * width:
                    raise TableError(f"{path}: expected a vector in each row, found {part.null_count} without")
                file.write(values.to_numpy().data)
                count += len(part)
        file.flush()
    return RowFile(file, (count, width))
