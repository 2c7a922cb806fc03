"""Parquet files by their paths, in which no character is a pattern: `polars` would take `shop[1]` for `shop1`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl


def parquet_schema(path: Path) -> dict[str, pl.DataType]:
    """Return the columns of the Parquet file at path."""
    return dict(parquet_rows(path).collect_schema())


def parquet_rows(path: Path | Sequence[Path]) -> pl.LazyFrame:
    """Return the Parquet file at path, or several with the same columns as one, of which nothing is read yet."""
    return pl.scan_parquet(path if isinstance(path, Path) else list(path), glob=False)


def parquet_table(path: Path, *, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the Parquet file at path, or some columns of it."""
    return pl.read_parquet(path, columns=columns, glob=False)
