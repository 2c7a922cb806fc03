import errno
import os

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tessera.artifacts import read_table
from tessera.encoders.embedded import write_vectors
from tessera.errors import DataError, SourceError
from tessera.items import vectors as module
from tessera.items.vectors import Vectors, fill_absent, parts_of, precomputed, room, vector_metrics
from tessera.schemas import VECTORS

LISTS = pl.List(pl.Float32)
KEYS = pl.Series(["b", "a", "c", "unknown"])


def found(vectors, present):
    return Vectors(np.array(vectors, np.float32), np.array(present))


def written(path, vectors, *, items=("c", "b", "a", "extra"), column="embedding", dtype=LISTS):
    pl.DataFrame({"item": items, column: pl.Series(vectors, dtype=dtype)}).write_parquet(path, row_group_size=2)
    return path


THREE = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


def test_an_absent_item_gets_the_mean():
    filled = fill_absent(found([[1, 0], [3, 2], [np.nan, 9]], [True, True, False]), modality="text")
    assert filled.vectors.tolist() == [[1, 0], [3, 2], [2, 1]]
    assert filled.present.tolist() == [True, True, False]
    assert filled.vectors.dtype == np.float32


@given(
    arrays.arrays(np.float32, (7, 3), elements=st.floats(-100, 100, width=32)),
    st.lists(st.booleans(), min_size=7, max_size=7).filter(any),
)
@settings(max_examples=50, deadline=None)
def test_filling_leaves_the_present_and_the_mean_as_they_are(vectors, present):
    filled = fill_absent(found(vectors, present), modality="text")
    np.testing.assert_array_equal(filled.vectors[present], vectors[present])
    np.testing.assert_allclose(filled.vectors.mean(axis=0), vectors[present].mean(axis=0), atol=1e-3)


def test_nobody_present_is_an_error():
    with pytest.raises(DataError, match="image: expected at least one item that has it, found none among 2"):
        fill_absent(found([[0], [0]], [False, False]), modality="image")


@pytest.mark.parametrize("part", [1, 2, 100])
def test_the_table_is_sorted_by_item_whatever_its_parts(tmp_path, monkeypatch, part):
    monkeypatch.setattr(module, "PART", part)
    items = pl.Series([2, 0, 1], dtype=pl.UInt32)
    write_vectors(tmp_path / "v.parquet", items, found([[2], [0], [1]], [True, False, True]))
    assert read_table(tmp_path / "v.parquet", VECTORS).rows() == [(0, [0.0], False), (1, [1.0], True), (2, [2.0], True)]


def test_metrics_are_counted():
    metrics = vector_metrics(found(np.zeros((4, 3)), [True, True, True, False]))
    assert metrics == {"items": 4, "present": 3, "missing": 0.25, "width": 3}


@pytest.mark.parametrize("column", ["embedding", "vector"])
@pytest.mark.parametrize(
    "dtype", [pl.List(pl.Float32), pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.Array(pl.Float64, 2)]
)
def test_precomputed_vectors_are_matched_by_key(tmp_path, column, dtype):
    read = precomputed(written(tmp_path / "v.parquet", THREE, column=column, dtype=dtype), KEYS)
    assert read.vectors.dtype == np.float32
    assert read.vectors.tolist() == [[3, 4], [5, 6], [1, 2], [0, 0]]
    assert read.present.tolist() == [True, True, True, False]


def test_vectors_may_lie_in_a_file_that_nobody_sees(tmp_path):
    scratch = tmp_path / "scratch"
    read = precomputed(written(tmp_path / "v.parquet", THREE), KEYS, scratch=scratch)
    assert list(scratch.iterdir()) == []
    assert isinstance(read.vectors.base, np.memmap)
    in_memory = precomputed(tmp_path / "v.parquet", KEYS)
    np.testing.assert_array_equal(fill_absent(read, modality="text").vectors[:3], in_memory.vectors[:3])


def test_parts_hold_every_row_once(monkeypatch):
    monkeypatch.setattr(module, "PART", 6)
    rows = np.arange(7)
    parts = [rows[part].tolist() for part in parts_of(room(7, 3, scratch=None))]
    assert parts == [[0, 1], [2, 3], [4, 5], [6]]


@pytest.mark.parametrize("nothing", [None, [0.0, 0.0]])
@pytest.mark.parametrize("dtype", [pl.List(pl.Float32), pl.Array(pl.Float32, 2)])
def test_a_null_or_a_vector_of_zeros_is_absent(tmp_path, nothing, dtype):
    read = precomputed(written(tmp_path / "v.parquet", [[1.0, 2.0], nothing, *THREE[2:]], dtype=dtype), KEYS)
    assert read.present.tolist() == [False, True, True, False]


def test_rows_that_nobody_asks_for_may_be_anything(tmp_path):
    path = written(tmp_path / "v.parquet", [*THREE, [np.nan]], items=("c", "b", "a", "extra", "extra"))
    assert precomputed(path, KEYS).present.sum() == 3


@pytest.mark.parametrize(
    ("vectors", "items", "message"),
    [
        ([[1.0, 2.0], [3.0], [5.0, 6.0]], ("a", "b", "c"), "one width, found widths 1 to 2"),
        ([[1.0, 2.0], [3.0, np.nan]], ("a", "b"), "finite numbers, found 1 vectors"),
        ([[1.0, np.inf], [-np.inf, 0.0]], ("a", "b"), "finite numbers, found 2 vectors"),
        ([[1.0, None], [3.0, 0.0]], ("a", "b"), "finite numbers, found 1 vectors"),
        ([[1.0], [2.0], [3.0]], ("a", "b", "a"), "each item once, found 1 more than once, such as 'a'"),
        ([[1.0], [2.0]], ("x", "y"), "of the 4 items, such as 'b', found none"),
        ([], (), "of the 4 items, such as 'b', found none"),
    ],
)
def test_vectors_that_cannot_be_used_are_an_error_that_names_the_file(tmp_path, vectors, items, message):
    path = written(tmp_path / "given.parquet", vectors, items=pl.Series(items, dtype=pl.String))
    with pytest.raises(SourceError, match=message) as error:
        precomputed(path, KEYS)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "columns",
    [
        {"key": ["a"], "embedding": [[1.0]]},
        {"item": ["a"], "embeddings": [[1.0]]},
        {"item": [1], "embedding": [[1.0]]},
        {"item": ["a"], "embedding": [1.0]},
        {"item": ["a"], "embedding": [[1]]},
        {"item": ["a"], "embedding": [["x"]]},
        {"item": ["a"], "embedding": [[[1.0]]]},
        {"item": ["a"], "embedding": [[1.0]], "vector": [[1.0]]},
    ],
)
def test_other_columns_are_an_error(tmp_path, columns):
    pl.DataFrame(columns).write_parquet(tmp_path / "given.parquet")
    with pytest.raises(SourceError, match=r"given.parquet: expected columns item \(text\) and embedding or vector"):
        precomputed(tmp_path / "given.parquet", KEYS)


def test_what_is_no_parquet_file_is_an_error(tmp_path):
    (tmp_path / "text").write_text("This file stands for no path.")
    for path in (tmp_path / "text", tmp_path / "nothing", tmp_path):
        with pytest.raises(SourceError, match="expected a Parquet file with columns item"):
            precomputed(path, KEYS)


@pytest.mark.parametrize(("name", "width"), [("text", 512), ("image", 384)])
def test_the_vectors_of_instruments(shared_data, name, width):
    path = shared_data("instruments") / f"{name}_embeddings.parquet"
    table = pl.read_parquet(path).sample(fraction=1, shuffle=True, seed=0)
    read = precomputed(path, table["item"])
    assert read.present.all()
    assert read.vectors.shape == (6250, width)
    np.testing.assert_array_equal(read.vectors, table["embedding"].to_numpy())


def test_a_disk_without_room_is_named_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=rf"{tmp_path}: expected room for 8,400 bytes of vectors: No space left"):
        room(700, 3, scratch=tmp_path)
    assert room(0, 3, scratch=tmp_path).shape == (0, 3)


def test_room_in_a_file_is_zeros_that_can_be_written(tmp_path):
    rows = room(5, 3, scratch=tmp_path / "deep")
    assert not rows.any()
    rows[4] = 7
    assert rows.sum() == 21
    assert not list((tmp_path / "deep").iterdir())
