"""Tables of vectors, labels and IDs."""

import numpy as np
import polars as pl
import pytest

from tessera.codes.losses import ABSENT
from tessera.codes.tables import id_table, matrix, stack_labels, stack_vectors
from tessera.errors import DataError
from tessera.schemas import IDS, LABELS


def vectors(items, width=2, present=None):
    return pl.DataFrame(
        {
            "item": pl.Series(items, dtype=pl.UInt32),
            "vector": pl.Series([[float(i)] * width for i in items], dtype=pl.Array(pl.Float32, width)),
            "present": pl.Series(present if present is not None else [True] * len(items), dtype=pl.Boolean),
        }
    )


def labels(*rows):
    return pl.DataFrame(rows, schema=LABELS, orient="row")


def test_vectors_of_the_modalities_asked_for_in_their_order():
    tables = {"text": vectors([0, 1]), "image": vectors([0, 1], 3, [True, False]), "sound": vectors([])}
    stacked = stack_vectors(tables, modalities=["image", "text"])
    assert list(stacked.vectors) == ["image", "text"]
    assert stacked.vectors["image"].tolist() == [[0.0] * 3, [1.0] * 3]
    assert stacked.present["image"].tolist() == [True, False]
    assert stacked.items.tolist() == [0, 1]


def test_vectors_that_are_not_there_or_of_other_items_are_refused():
    with pytest.raises(DataError, match="modalities: expected vectors of image, found text: 2 of them"):
        stack_vectors({"text": vectors([0, 1])}, modalities=["text", "image"])
    with pytest.raises(DataError, match="expected vectors of image, found text: 2 of them, image: 0 of them"):
        stack_vectors({"text": vectors([0, 1]), "image": vectors([])}, modalities=["text", "image"])
    for others in ([0, 1, 2], [0, 2], [1, 0]):
        with pytest.raises(DataError, match="image: expected vectors of the same 2 items in the same order"):
            stack_vectors({"text": vectors([0, 1]), "image": vectors(others)}, modalities=["text", "image"])


def test_a_matrix_of_a_table_that_is_empty_or_not_there_has_width_0():
    items = pl.Series([0, 1], dtype=pl.UInt32)
    assert matrix(None, items, modality="text").shape == (2, 0)
    assert matrix(vectors([]), items, modality="text").shape == (2, 0)
    found = matrix(vectors([0, 1], 3), items, modality="text")
    assert found.shape == (2, 3)
    assert found.dtype == np.float32


def test_labels_are_absent_where_they_are_null_or_the_modality_is_not_present():
    stacked = stack_vectors({"text": vectors([0, 1, 2], present=[True, True, False])}, modalities=["text"])
    table = labels((2, "text", 4), (1, "text", None), (0, "text", 7), (0, "image", 3))
    assert stack_labels(table, stacked)["text"].tolist() == [7, ABSENT, ABSENT]


def test_labels_that_miss_an_item_or_repeat_one_are_refused():
    stacked = stack_vectors({"text": vectors([0, 1])}, modalities=["text"])
    with pytest.raises(
        DataError, match="text: expected one label for each of 2 items, found 1 labels and 1 items without"
    ):
        stack_labels(labels((0, "text", 1)), stacked)
    with pytest.raises(DataError, match="expected one label for each of 2 items, found 3 labels and 0 items without"):
        stack_labels(labels((0, "text", 1), (1, "text", 1), (1, "text", 2)), stacked)


def test_an_id_table_by_hand():
    items = pl.Series([0, 1], dtype=pl.UInt32)
    table = id_table(items, "text", codes=np.array([[1, 2], [1, 3]]), first=np.array([[1, 2], [1, 2]]))
    assert table.rows() == [(0, "text", [1, 2], [1, 2], False), (1, "text", [1, 3], [1, 2], True)]
    assert dict(table.schema) == IDS
    longer = id_table(items, "text", codes=np.array([[1, 0], [1, 1]]), first=np.array([[1], [65535]]))
    assert longer.rows() == [(0, "text", [1, 0], [1], False), (1, "text", [1, 1], [65535], True)]
