"""The tables on both sides of this island as arrays: one row an item, the same rows in every modality."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.codes.losses import ABSENT
from tessera.codes.rows import Collaborative, Fused, Rows
from tessera.errors import DataError
from tessera.schemas import JOINT


class Vectors(NamedTuple):
    """The vectors of all items, their rows in the order of `items`."""

    items: NDArray[np.uint32]  # (N,)
    vectors: dict[str, Rows]  # modality -> (N, D)
    present: dict[str, Tensor]  # modality -> (N,) whether the item has the modality


def stack_vectors(
    tables: Mapping[str, pl.DataFrame], rows: Mapping[str, Rows], *, modalities: Sequence[str]
) -> Vectors:
    """Return the vectors of modalities from their tables of item and present and their rows (N, D).

    Raises DataError where a modality has no table or an empty one, or where two tables are not of the same items.
    """
    for modality in modalities:
        if modality not in tables or tables[modality].is_empty():
            raise DataError(f"modalities: expected vectors of {modality}, found {_heights(tables)}")
    items = tables[modalities[0]]["item"]
    return Vectors(
        items.to_numpy(),
        {modality: rows_of(items, tables[modality], rows[modality], modality=modality) for modality in modalities},
        {modality: torch.from_numpy(tables[modality]["present"].to_numpy(writable=True)) for modality in modalities},
    )


def fused(vectors: Mapping[str, Rows], present: Mapping[str, Tensor]) -> tuple[dict[str, Rows], dict[str, Tensor]]:
    """Return the vectors (N, D) of all modalities as those of one, JOINT, and the items (N,) that have any of them.

    Raises DataError where no item has some modality.
    """
    return {JOINT: Fused(vectors, present)}, {JOINT: torch.stack(list(present.values())).any(0)}


def rows_of(items: pl.Series, table: pl.DataFrame | None, rows: Rows | None, *, modality: str) -> Rows:
    """Return rows (N, D), which are those of a table with the column item; D = 0 where it is empty or not there.

    Raises DataError where the table is not of the same items in the same order.
    """
    if table is None or rows is None or table.is_empty():
        return torch.empty(len(items), 0)
    if not table["item"].equals(items):
        raise DataError(
            f"{modality}: expected vectors of the same {len(items)} items in the same order as elsewhere, "
            f"found {table.height}, the first of item {table['item'][0]}"
        )
    return rows


def collaborative_vectors(table: pl.DataFrame, vectors: Vectors) -> Collaborative:
    """Return what a table of item, vector and present says of the items of vectors; C = 0 where it is empty.

    Raises DataError where the table is not of the same items in the same order.
    """
    rows = torch.from_numpy(table["vector"].to_numpy(writable=True))
    present = torch.from_numpy(table["present"].to_numpy(writable=True))
    return Collaborative(rows_of(pl.Series(vectors.items), table, rows, modality="collaborative"), present)


def stack_labels(labels: pl.DataFrame, vectors: Vectors) -> dict[str, Tensor]:
    """Return the labels (N,) of each modality from a table of item, modality and label; ABSENT for what is not there.

    Fused vectors, JOINT, have no labels: there is no other modality that could share them. All items have label 0.

    Raises DataError where an item of vectors has no row.
    """
    wanted = pl.DataFrame({"item": vectors.items})
    stacked = {}
    for modality, present in vectors.present.items():
        if modality == JOINT:
            stacked[modality] = torch.where(present, 0, ABSENT)
            continue
        of_modality = labels.filter(pl.col("modality") == modality).select("item", "label")
        matched = wanted.join(of_modality, on="item", how="left", maintain_order="left")
        missing = wanted.join(of_modality, on="item", how="anti").height
        if missing or matched.height != wanted.height:
            raise DataError(
                f"{modality}: expected one label for each of {wanted.height} items, found {of_modality.height} labels "
                f"and {missing} items without one"
            )
        numbers = matched["label"].cast(pl.Int64).fill_null(ABSENT).to_numpy(writable=True)
        stacked[modality] = torch.from_numpy(numbers).masked_fill(~present, ABSENT)
    return stacked


def id_table(items: pl.Series, modality: str, *, codes: NDArray[np.int64], first: NDArray[np.int64]) -> pl.DataFrame:
    """Return a table of item, modality, codes, first_codes and moved: codes (N, L) and what they were at first.

    A level that was added moves nobody.
    """
    return pl.DataFrame(
        {
            "item": items,
            "modality": pl.Series([modality] * len(items), dtype=pl.String),
            "codes": _lists(codes),
            "first_codes": _lists(first),
            "moved": (codes[:, : first.shape[1]] != first).any(axis=1),
        }
    )


def _lists(codes: NDArray[np.int64]) -> pl.Series:
    return pl.Series(codes.astype(np.uint16), dtype=pl.Array(pl.UInt16, codes.shape[1])).arr.to_list()


def _heights(tables: Mapping[str, pl.DataFrame]) -> str:
    return ", ".join(f"{name}: {table.height} of them" for name, table in tables.items()) or "no tables"
