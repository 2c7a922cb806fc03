"""One vector an item and modality: those that exist already, those that are missing, and the table they end in.

Encoders return `Vectors` over the items in the order of their table; what an encoder could not embed is absent. An
absent item gets the mean of the present ones: it stands in the middle, nearest to no one, and every later stage can
compute with it. `present` keeps the truth.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError, SourceError

#: The names under which a file of precomputed vectors may hold them.
VECTOR_COLUMNS = ("embedding", "vector")


class Vectors(NamedTuple):
    """What an encoder makes of N items."""

    vectors: NDArray[np.float32]  # (N, D); rows of absent items mean nothing
    present: NDArray[np.bool_]  # (N,)


def fill_absent(found: Vectors, *, modality: str) -> Vectors:
    """Return found with the mean of the present vectors in place of each absent one.

    Vectors [1, 0], [3, 2] and an absent third give it [2, 1].

    Raises DataError where no item is present, for then there is no mean.
    """
    if not found.present.any():
        raise DataError(f"{modality}: expected at least one item that has it, found none among {len(found.present)}")
    rows = found.present[:, np.newaxis]
    mean = np.mean(found.vectors, axis=0, dtype=np.float64, where=rows).astype(np.float32)
    return Vectors(np.where(rows, found.vectors, mean), found.present)


def vector_table(items: pl.Series, filled: Vectors) -> pl.DataFrame:
    """Return the table item, vector, present, sorted by item."""
    columns = {"item": items, "vector": filled.vectors, "present": filled.present}
    return pl.DataFrame(columns).sort("item")


def vector_metrics(filled: Vectors) -> dict[str, float]:
    """Return how many items there are, how many of them are present, the share that is not, and the width D."""
    items, present = len(filled.present), int(filled.present.sum())
    return {
        "items": items,
        "present": present,
        "missing": (items - present) / items,
        "width": filled.vectors.shape[1],
    }


def precomputed(path: Path, keys: pl.Series) -> Vectors:
    """Return the vectors that the Parquet file at path holds for the items of the given keys (N,).

    The file has a column `item` with keys, and `embedding` or `vector` with lists of floats, all of one width. Only
    rows of asked-for keys are loaded. A key that is not in the file, or whose vector is null or nothing but zeros
    (how many tools write "missing"), is absent.

    Raises SourceError, naming the file, where it is missing or has other columns, where a key occurs twice or none is
    known, and where vectors differ in width or are not finite.
    """
    column = _vector_column(path)
    rows = _asked_for(path, column, keys)
    vectors = _matrix(rows["vector"], path)
    found = Vectors(np.zeros((len(keys), vectors.shape[1]), np.float32), np.zeros(len(keys), np.bool_))
    places = rows["place"].to_numpy()
    found.vectors[places], found.present[places] = vectors, vectors.any(axis=1)
    return found


def _vector_column(path: Path) -> str:
    expected = "columns item (text) and embedding or vector (lists of floats)"
    try:
        schema = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: expected a Parquet file with {expected}: {error}") from error
    columns = [name for name in VECTOR_COLUMNS if _is_vector(schema.get(name))]
    if schema.get("item") != pl.String or len(columns) != 1:
        raise SourceError(f"{path}: expected {expected}, found {dict(schema)}")
    return columns[0]


def _is_vector(dtype: pl.DataType | None) -> bool:
    return isinstance(dtype, (pl.List, pl.Array)) and isinstance(dtype.inner, pl.DataType) and dtype.inner.is_float()


def _asked_for(path: Path, column: str, keys: pl.Series) -> pl.DataFrame:
    """Return place (the row in keys) and vector of the rows of path that keys ask for and that are not null."""
    wanted = pl.DataFrame({"item": keys}).with_row_index("place")
    rows = (
        pl.scan_parquet(path)
        .select("item", vector=pl.col(column))
        .join(wanted.lazy(), on="item", how="inner", maintain_order="right")
        .collect(engine="streaming")
    )
    twice = rows.filter(pl.col("item").is_duplicated())["item"].unique().sort()
    if len(twice):
        raise SourceError(f"{path}: expected each item once, found {len(twice)} more than once, such as {twice[0]!r}")
    if rows.is_empty():
        raise SourceError(
            f"{path}: expected vectors of the {len(keys)} items, such as {keys.first()!r}, found none of their keys"
        )
    return rows.drop_nulls("vector")


def _matrix(vectors: pl.Series, path: Path) -> NDArray[np.float32]:
    """Return a column of float lists as a matrix (rows, D)."""
    if isinstance(vectors.dtype, pl.List):
        widths = vectors.list.len().unique().sort().to_list()
        if len(widths) > 1:
            raise SourceError(f"{path}: expected vectors of one width, found widths {widths[0]} to {widths[-1]}")
        vectors = vectors.list.to_array(widths[0] if widths else 0)
    matrix: NDArray[np.float32] = vectors.to_numpy().astype(np.float32)
    broken = int((~np.isfinite(matrix)).any(axis=1).sum())
    if broken:
        raise SourceError(f"{path}: expected finite numbers, found {broken} vectors with NaN, infinity or null")
    return matrix
