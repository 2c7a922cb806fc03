"""Rows of vectors read from a file are those of the table, whatever the row groups."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tessera import artifacts
from tessera.artifacts import write_table
from tessera.errors import TableError
from tessera.row_files import picture_rows, vector_rows
from tessera.schemas import VECTORS


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)


@pytest.fixture
def path(tmp_path, matrix):
    return written(matrix, tmp_path / "vectors.parquet")


def written(matrix, path):
    items = pl.Series(range(len(matrix)), dtype=pl.UInt32)
    table = pl.DataFrame({"item": items, "vector": matrix, "present": [True] * len(matrix)})
    write_table(path, table, VECTORS)
    return path


@pytest.mark.parametrize("group", [1, 140, 10**6])
def test_rows_are_those_of_the_table_in_whatever_order(matrix, tmp_path, monkeypatch, group):
    monkeypatch.setattr(artifacts, "GROUP", group)
    path = written(matrix, tmp_path / "vectors.parquet")
    with vector_rows({"text": path, "again": path}, scratch=tmp_path / "new") as found:
        rows = found["text"]
        assert list(found) == ["text", "again"]
        assert rows.shape == (50, 7)
        for wanted in (torch.tensor([49, 0, 3, 3]), torch.tensor([], dtype=torch.int64)):
            assert torch.equal(rows[wanted], torch.from_numpy(matrix)[wanted])
        for wanted in (slice(None), slice(10, 12), slice(45, 90), slice(50, 60), slice(0, 0)):
            assert torch.equal(rows[wanted], torch.from_numpy(matrix)[wanted])


def test_rows_may_be_looked_at_as_one_array_and_without_those_that_are_absent(matrix, tmp_path):
    present = np.arange(50) % 3 > 0
    items = pl.Series(range(50), dtype=pl.UInt32)
    table = pl.DataFrame({"item": items, "vector": matrix, "present": present})
    write_table(tmp_path / "some.parquet", table, VECTORS)
    with vector_rows({"text": tmp_path / "some.parquet"}, scratch=tmp_path, only_present=True) as found:
        some = found["text"].mapped()
        some[0] = 0  # changes no file
        assert torch.equal(found["text"][:], torch.from_numpy(matrix[present]))
    np.testing.assert_array_equal(some[1:], matrix[present][1:])
    write_table(tmp_path / "none.parquet", table.with_columns(present=pl.lit(value=False)), VECTORS)
    with vector_rows({"text": tmp_path / "none.parquet"}, scratch=tmp_path, only_present=True) as found:
        assert found["text"].mapped().shape == (0, 7)


def test_pictures_are_those_of_the_blocks_in_whatever_order(tmp_path):
    pictures = np.random.default_rng(0).integers(256, size=(9, 4, 4, 3), dtype=np.uint8)
    blocks = [pictures[:2], pictures[2:3], pictures[:0], pictures[3:, ::-1][:, ::-1]]
    with picture_rows(iter(blocks), side=4, scratch=tmp_path / "new") as rows:
        assert rows.shape == (9, 4, 4, 3)
        for wanted in (torch.tensor([8, 0, 2, 2]), slice(1, 5), slice(7, 99), slice(0, 0)):
            assert torch.equal(rows[wanted], torch.from_numpy(pictures)[wanted])
    with picture_rows(iter([]), side=4, scratch=tmp_path) as rows:
        assert rows.shape == (0, 4, 4, 3)


def test_no_more_than_a_row_group_is_held(tmp_path, monkeypatch):
    matrix = np.random.default_rng(0).normal(size=(4000, 512)).astype(np.float32)
    monkeypatch.setattr(artifacts, "GROUP", 100 * 512)
    path = written(matrix, tmp_path / "vectors.parquet")
    held = []
    read = pq.ParquetFile.read_row_group

    def watched(file, number, **options):
        held.append(pa.total_allocated_bytes())
        return read(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    before = pa.total_allocated_bytes()
    with vector_rows({"text": path}, scratch=tmp_path) as found:
        assert torch.equal(found["text"][:], torch.from_numpy(matrix))
    assert len(held) == 40
    assert max(held) - before < matrix.nbytes / 4


def test_the_scratch_file_has_no_name_and_is_closed_at_the_end(path, tmp_path):
    with vector_rows({"text": path}, scratch=tmp_path / "new") as found:
        assert not list((tmp_path / "new").iterdir())
    with pytest.raises(ValueError, match="closed file"):
        found["text"][:1]


def test_an_empty_table_has_no_rows(tmp_path):
    write_table(tmp_path / "none.parquet", pl.DataFrame(schema=VECTORS), VECTORS)
    with vector_rows({"text": tmp_path / "none.parquet"}, scratch=tmp_path) as found:
        assert found["text"].shape == (0, 1)
        assert found["text"][:].shape == (0, 1)


def test_a_row_without_a_vector_is_an_error(tmp_path):
    column = pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float32, 2))
    table = pl.DataFrame({"item": pl.Series([0, 1], dtype=pl.UInt32), "vector": column, "present": [True, False]})
    write_table(tmp_path / "gap.parquet", table, VECTORS)
    expected = r"gap.parquet: expected a vector in each row, found 1 without"
    with pytest.raises(TableError, match=expected), vector_rows({"text": tmp_path / "gap.parquet"}, scratch=tmp_path):
        pass


def test_rows_beyond_the_end_are_an_error(path, tmp_path):
    with vector_rows({"text": path}, scratch=tmp_path) as found, pytest.raises(OSError, match="found 0"):
        found["text"][torch.tensor([50])]
