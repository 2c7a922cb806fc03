"""Tables of vectors, labels and IDs."""

import numpy as np
import polars as pl
import pytest
import torch

from tessera.codes.losses import ABSENT
from tessera.codes.tables import id_table, rows_of, stack_labels, stack_vectors
from tessera.errors import DataError
from tessera.schemas import IDS, LABELS


def table(items, present=None):
    return pl.DataFrame(
        {
            "item": pl.Series(items, dtype=pl.UInt32),
            "present": pl.Series(present if present is not None else [True] * len(items), dtype=pl.Boolean),
        }
    )


def stacked(tables, *, modalities, width=2):
    rows = {name: torch.tensor(of["item"].to_list())[:, None].repeat(1, width).float() for name, of in tables.items()}
    return stack_vectors(tables, rows, modalities=modalities)


def labels(*rows):
    return pl.DataFrame(rows, schema=LABELS, orient="row")


def test_vectors_of_the_modalities_asked_for_in_their_order():
    tables = {"text": table([0, 1]), "image": table([0, 1], [True, False]), "sound": table([7])}
    found = stacked(tables, modalities=["image", "text"])
    assert list(found.vectors) == ["image", "text"]
    assert found.vectors["image"][:2].tolist() == [[0.0] * 2, [1.0] * 2]
    assert found.present["image"].tolist() == [True, False]
    assert found.items.tolist() == [0, 1]


def test_vectors_that_are_not_there_or_of_other_items_are_refused():
    with pytest.raises(DataError, match="modalities: expected vectors of image, found text: 2 of them"):
        stacked({"text": table([0, 1])}, modalities=["text", "image"])
    nothing = {"text": table([0, 1]), "image": table([0]).clear()}
    with pytest.raises(DataError, match="expected vectors of image, found text: 2 of them, image: 0 of them"):
        stack_vectors(nothing, {}, modalities=["text", "image"])
    for others in ([0, 1, 2], [0, 2], [1, 0]):
        with pytest.raises(DataError, match="image: expected vectors of the same 2 items in the same order"):
            stacked({"text": table([0, 1]), "image": table(others)}, modalities=["text", "image"])


def test_rows_of_a_table_that_is_empty_or_not_there_have_width_0():
    items, rows = pl.Series([0, 1], dtype=pl.UInt32), torch.ones(2, 3)
    assert rows_of(items, None, None, modality="text").shape == (2, 0)
    assert rows_of(items, table([0]).clear(), torch.ones(0, 1), modality="text").shape == (2, 0)
    assert rows_of(items, table([0, 1]), rows, modality="text") is rows


def test_labels_are_absent_where_they_are_null_or_the_modality_is_not_present():
    catalogue = stacked({"text": table([0, 1, 2], [True, True, False])}, modalities=["text"])
    rows = labels((2, "text", 4), (1, "text", None), (0, "text", 7), (0, "image", 3))
    assert stack_labels(rows, catalogue)["text"].tolist() == [7, ABSENT, ABSENT]


def test_labels_that_miss_an_item_or_repeat_one_are_refused():
    catalogue = stacked({"text": table([0, 1])}, modalities=["text"])
    with pytest.raises(
        DataError, match="text: expected one label for each of 2 items, found 1 labels and 1 items without"
    ):
        stack_labels(labels((0, "text", 1)), catalogue)
    with pytest.raises(DataError, match="expected one label for each of 2 items, found 3 labels and 0 items without"):
        stack_labels(labels((0, "text", 1), (1, "text", 1), (1, "text", 2)), catalogue)


def test_an_id_table_by_hand():
    items = pl.Series([0, 1], dtype=pl.UInt32)
    ids = id_table(items, "text", codes=np.array([[1, 2], [1, 3]]), first=np.array([[1, 2], [1, 2]]))
    assert ids.rows() == [(0, "text", [1, 2], [1, 2], False), (1, "text", [1, 3], [1, 2], True)]
    assert dict(ids.schema) == IDS
    longer = id_table(items, "text", codes=np.array([[1, 0], [1, 1]]), first=np.array([[1], [65535]]))
    assert longer.rows() == [(0, "text", [1, 0], [1], False), (1, "text", [1, 1], [65535], True)]
