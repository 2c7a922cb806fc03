"""IDs that somebody else made: read from a file, matched to the items by key, and given distances of their own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.codes.collisions import LARGEST_CODEBOOK, NAMED, Integers, Paths
from tessera.codes.rows import Rows
from tessera.errors import DataError, TableError
from tessera.parquet import parquet_table

#: Vectors summed at one time: 128 MiB of doubles.
BLOCK = 2**24


def read_ids(path: Path) -> pl.DataFrame:
    """Return the Parquet table of IDs at path: item (a key), modality and codes (a list of integers).

    Raises TableError where it is missing, unreadable, or has other columns.
    """
    if not path.is_file():
        raise TableError(f"{path}: expected a file with IDs, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        table = parquet_table(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TableError(f"{path}: cannot be read: {error}") from error
    codes = table.schema.get("codes")
    are_lists = isinstance(codes, pl.List | pl.Array) and codes.inner is not None and codes.inner.is_integer()
    are_texts = all(table.schema.get(name) == pl.String for name in ("item", "modality"))
    if not are_lists or not are_texts:
        found = ", ".join(f"{name}: {dtype}" for name, dtype in table.schema.items())
        raise TableError(
            f"{path}: expected columns item: String, modality: String, codes: a list of integers, found {found}"
        )
    # What 64 bits do not hold becomes null, which codes_of refuses by name.
    return table.select("item", "modality", pl.col("codes").cast(pl.List(pl.Int64), strict=False))


def codes_of(ids: pl.DataFrame, modality: str, *, keys: Sequence[str]) -> Integers:
    """Return the codes (N, L) that ids gives in one modality to the items with keys (N,), in their order.

    Other items of ids are left aside. Raises DataError where an item has none or several, or where codes are
    missing, of unequal length, negative, or too large.
    """
    found = ids.filter(pl.col("modality") == modality).select("item", "codes")
    wanted = pl.DataFrame({"item": pl.Series(keys, dtype=pl.String)})
    found = found.join(wanted, on="item", how="semi")
    _refuse(found.filter(pl.col("item").is_duplicated())["item"].unique(maintain_order=True), modality, "several IDs")
    matched = wanted.join(found, on="item", how="left", maintain_order="left")
    _refuse(matched.filter(pl.col("codes").is_null())["item"], modality, "no ID")
    length = int(matched["codes"].list.len().to_numpy().max(initial=1))
    uneven = matched.filter(pl.col("codes").list.len() != length)["item"]
    _refuse(uneven, modality, f"not the {length} codes of others")
    bounds = pl.element().is_null() | (pl.element() < 0) | (pl.element() >= LARGEST_CODEBOOK)
    outside = matched.filter(pl.col("codes").list.eval(bounds).list.any())["item"]
    _refuse(outside, modality, f"codes that are not whole numbers from 0 to {LARGEST_CODEBOOK - 1}")
    return matched["codes"].list.to_array(length).to_numpy().astype(np.int64).reshape(-1, length)


def estimated_paths(codes: Integers, vectors: Rows, *, size: int) -> Paths:
    """Return codes (N, L) with distances that their own items imply, since their codebooks are not at hand.

    Level by level, the place of a code is the mean of what is left of the vectors (N, D) of the items that hold it;
    what is left of a vector is the vector less the places of its codes so far. A code that no item holds has no
    place (NaN). M is size, or more where a code demands it. Vectors of width 0 make all distances equal.
    """
    size = max(size, int(codes.max(initial=-1)) + 1)
    codebooks = np.full((codes.shape[1], size, vectors.shape[1]), np.nan, dtype=np.float32)
    for level, column in enumerate(codes.T):
        _place(codebooks[level], column, _left(vectors, codes[:, :level], codebooks))
    before = codes[:, : max(codes.shape[1] - 2, 0)]
    residuals = np.empty(vectors.shape, dtype=np.float32)
    for rows, left in _left(vectors, before, codebooks):
        residuals[rows] = left
    return Paths(codes, residuals, codebooks)


def _left(
    vectors: Rows, codes: Integers, codebooks: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield, by rows, what is left of vectors (N, D) after the places of codes (N, l) in codebooks (L, M, D)."""
    step = max(1, BLOCK // max(vectors.shape[1], 1))
    for start in range(0, len(codes), step):
        rows = slice(start, start + step)
        left = vectors[rows].numpy().copy()
        for codebook, column in zip(codebooks, codes[rows].T, strict=False):
            left -= codebook[column]
        yield rows, left


def _place(codebook: NDArray[np.float32], codes: Integers, parts: Iterable[tuple[slice, NDArray[np.float32]]]) -> None:
    """Put into codebook (M, D) the mean of the vectors, which come by rows, that hold each of codes (N,)."""
    sums, counts = np.zeros(codebook.shape), np.bincount(codes, minlength=len(codebook))
    for rows, vectors in parts:
        order = np.argsort(codes[rows], kind="stable")
        held, first = np.unique(codes[rows][order], return_index=True)
        if vectors.shape[1]:
            sums[held] += np.add.reduceat(vectors[order].astype(np.float64), first, axis=0)
    codebook[counts > 0] = sums[counts > 0] / counts[counts > 0, None]


def _refuse(items: pl.Series, modality: str, what: str) -> None:
    """Raise DataError if there are items, of which it says what they have."""
    if len(items):
        named = ", ".join(items.head(NAMED)) + (", ..." if len(items) > NAMED else "")
        raise DataError(
            f"ids.path: expected one ID for each item, found {len(items)} with {what} of {modality}: {named}"
        )
