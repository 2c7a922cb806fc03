"""What comes of embedding items in one modality, and the table that it is written to."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from tessera.artifacts import table_writer
from tessera.items.fitted import Fitted
from tessera.items.vectors import Vectors, vector_tables
from tessera.schemas import VECTORS


class Embedded(NamedTuple):
    """Vectors of N items, what is to be told of what they were made from, and what embeds other items so."""

    vectors: Vectors
    counts: dict[str, float]
    fitted: Fitted


def write_vectors(path: Path, items: pl.Series, filled: Vectors) -> None:
    """Write the vectors of items to path as a table, sorted by item, part by part."""
    with table_writer(path, VECTORS) as write:
        for part in vector_tables(items, filled):
            write(part)
