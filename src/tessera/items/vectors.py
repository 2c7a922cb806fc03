"""One vector an item and modality: those that exist already, those that are missing, and the table they end in.

Encoders return `Vectors` over the items in the order of their table; what an encoder could not embed is absent. An
absent item gets the mean of the present ones: it stands in the middle, nearest to no one, and every later stage can
compute with it. `present` keeps the truth.

Vectors of a large catalogue need not fit into memory: `room` gives them a place on disk that arithmetic can be done in,
and they are read and written part by part.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError, SourceError
from tessera.parquet import parquet_schema

#: The names under which a file of precomputed vectors may hold them.
VECTOR_COLUMNS = ("embedding", "vector")

#: Numbers in one part of vectors: 64 MiB of floats, which is also what a row group of a table holds.
PART = 2**24


class Vectors(NamedTuple):
    """What an encoder makes of N items."""

    vectors: NDArray[np.float32]  # (N, D); rows of absent items mean nothing
    present: NDArray[np.bool_]  # (N,)


def room(rows: int, width: int, *, scratch: Path | None) -> NDArray[np.float32]:
    """Return zeros (rows, width), in memory, or in a file of the folder scratch that vanishes with the array.

    Raises DataError where the disk has no room for the file, if the system can tell: written to later, it would end the
    process.
    """
    if scratch is None or not rows * width:
        return np.zeros((rows, width), np.float32)
    scratch.mkdir(parents=True, exist_ok=True)
    size = rows * width * np.dtype(np.float32).itemsize
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise DataError(f"{scratch}: expected room for {size:,} bytes of vectors: {error.strerror}") from error
        return np.asarray(np.memmap(file, np.float32, "r+", shape=(rows, width)))


def parts_of(vectors: NDArray[np.float32]) -> Iterator[slice]:
    """Yield the rows of vectors (N, D) as slices of a bounded size, in order."""
    rows = max(1, PART // max(1, vectors.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(vectors), rows))


def fill_absent(found: Vectors, *, modality: str) -> Vectors:
    """Put the mean of the present vectors in the place of each absent one of found, and return found.

    Vectors [1, 0], [3, 2] and an absent third give it [2, 1].

    Raises DataError where no item is present, for then there is no mean.
    """
    if not found.present.any():
        raise DataError(f"{modality}: expected at least one item that has it, found none among {len(found.present)}")
    if not found.present.all():
        rows = found.present[:, np.newaxis]
        found.vectors[~found.present] = np.mean(found.vectors, axis=0, dtype=np.float64, where=rows)
    return found


def vector_tables(items: pl.Series, filled: Vectors) -> Iterator[pl.DataFrame]:
    """Yield the table item, vector, present, sorted by item, part by part."""
    order = items.arg_sort().to_numpy()
    for part in parts_of(filled.vectors):
        rows = order[part]
        yield pl.DataFrame(
            {"item": items.gather(rows), "vector": filled.vectors[rows], "present": filled.present[rows]}
        )


def vector_metrics(filled: Vectors) -> dict[str, float]:
    """Return how many items there are, how many of them are present, the share that is not, and the width D."""
    items, present = len(filled.present), int(filled.present.sum())
    return {
        "items": items,
        "present": present,
        "missing": (items - present) / items,
        "width": filled.vectors.shape[1],
    }


def precomputed(path: Path, keys: pl.Series, *, scratch: Path | None = None) -> Vectors:
    """Return the vectors that the Parquet file at path holds for the items of the given keys (N,).

    The file has a column `item` with keys, and `embedding` or `vector` with lists of floats, all of one width. Only
    rows of asked-for keys are kept, and one row group of the file is in memory at a time. A key that is not in the
    file, or whose vector is null or nothing but zeros (how many tools write "missing"), is absent.

    Raises SourceError, naming the file, where it is missing or has other columns, where a key occurs twice or none is
    known, and where vectors differ in width or are not finite.
    """
    found = Vectors(room(len(keys), 0, scratch=None), np.zeros(len(keys), np.bool_))
    times, widths, broken = np.zeros(len(keys), np.int64), set[int](), 0
    for rows in _asked_for(path, _vector_column(path), keys):
        times += np.bincount(rows["place"].to_numpy(), minlength=len(keys))
        for (width,), given in rows.drop_nulls("vector").group_by(pl.col("vector").list.len(), maintain_order=True):
            if not widths:
                found = found._replace(vectors=room(len(keys), width, scratch=scratch))
            widths.add(width)
            if width == found.vectors.shape[1]:
                matrix = given["vector"].list.to_array(width).to_numpy()
                places = given["place"].to_numpy()
                found.vectors[places], found.present[places] = matrix, matrix.any(axis=1)
                broken += int((~np.isfinite(matrix)).any(axis=1).sum())
    _require_sound(path, keys, times=times, widths=widths, broken=broken)
    return found


def _require_sound(path: Path, keys: pl.Series, *, times: NDArray[np.int64], widths: set[int], broken: int) -> None:
    """Raise SourceError unless each of the keys came once at most, some did, and their vectors are alike and finite."""
    twice = keys.filter(times > 1).sort()
    if len(twice):
        raise SourceError(f"{path}: expected each item once, found {len(twice)} more than once, such as {twice[0]!r}")
    if not times.any():
        raise SourceError(
            f"{path}: expected vectors of the {len(keys)} items, such as {keys.first()!r}, found none of their keys"
        )
    if len(widths) > 1:
        raise SourceError(f"{path}: expected vectors of one width, found widths {min(widths)} to {max(widths)}")
    if broken:
        raise SourceError(f"{path}: expected finite numbers, found {broken} vectors with NaN, infinity or null")


def _vector_column(path: Path) -> str:
    expected = "columns item (text) and embedding or vector (lists of floats)"
    try:
        schema = parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: expected a Parquet file with {expected}: {error}") from error
    columns = [name for name in VECTOR_COLUMNS if _is_vector(schema.get(name))]
    if schema.get("item") != pl.String or len(columns) != 1:
        raise SourceError(f"{path}: expected {expected}, found {dict(schema)}")
    return columns[0]


def _is_vector(dtype: pl.DataType | None) -> bool:
    return isinstance(dtype, (pl.List, pl.Array)) and isinstance(dtype.inner, pl.DataType) and dtype.inner.is_float()


def _asked_for(path: Path, column: str, keys: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield place (the row in keys) and vector (a list) of the rows of path that keys ask for, by row group."""
    import pyarrow.parquet as pq  # here, since most encoders need nothing of it

    wanted = pl.DataFrame({"item": keys}).with_row_index("place")
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            rows = pl.DataFrame(pl.from_arrow(file.read_row_group(number, columns=["item", column])))
            vectors = pl.col(column).cast(pl.List(pl.Float32)).alias("vector")
            yield rows.select("item", vectors).join(wanted, on="item", maintain_order="left").drop("item")
