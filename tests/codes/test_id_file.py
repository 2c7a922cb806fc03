"""IDs from a file: matched by key, checked, and given distances by the vectors of the items that hold them."""

import re

import numpy as np
import polars as pl
import pytest
import torch

from tessera.codes.collisions import reassign, require_distinct
from tessera.codes.id_file import codes_of, estimated_paths, read_ids
from tessera.errors import DataError, TableError

KEYS = ["a", "b", "c"]


def ids(*rows):
    return pl.DataFrame(
        rows, schema={"item": pl.String, "modality": pl.String, "codes": pl.List(pl.Int64)}, orient="row"
    )


GOOD = ids(
    ("c", "text", [5, 6]), ("a", "text", [1, 2]), ("a", "image", [9]), ("z", "text", [0, 0]), ("b", "text", [3, 4])
)


def test_codes_come_in_the_order_of_the_keys_and_other_items_are_left_aside():
    assert codes_of(GOOD, "text", keys=KEYS).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert codes_of(GOOD, "image", keys=["a"]).tolist() == [[9]]
    assert codes_of(GOOD, "text", keys=[]).shape[0] == 0


def test_a_code_of_more_than_63_bits_is_refused_by_name(tmp_path):
    codes = pl.Series([[1, 2], [1, 2**63 + 5]], dtype=pl.List(pl.UInt64))
    pl.DataFrame({"item": ["a", "b"], "modality": "text", "codes": codes}).write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(DataError, match="found 1 with codes that are not whole numbers from 0 to 65535 of text: b"):
        codes_of(read_ids(tmp_path / "ids.parquet"), "text", keys=["a", "b"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "found 1 with no ID of text: c"),
        (("c", "image", [5, 6]), "found 1 with no ID of text: c"),
        (("a", "text", [1, 2]), "found 1 with several IDs of text: a"),
        (("c", "text", None), "found 1 with no ID of text: c"),
        (("c", "text", [5]), "found 1 with not the 2 codes of others of text: c"),
        (("c", "text", [5, 6, 7]), "found 2 with not the 3 codes of others of text: a, b"),
        (("c", "text", [5, -1]), "found 1 with codes that are not whole numbers from 0 to 65535 of text: c"),
        (("c", "text", [5, 65536]), "found 1 with codes that are not whole numbers from 0 to 65535 of text: c"),
        (("c", "text", [5, None]), "found 1 with codes that are not whole numbers from 0 to 65535 of text: c"),
    ],
)
def test_ids_that_do_not_fit_are_refused_with_their_keys(row, message):
    table = ids(("a", "text", [1, 2]), ("b", "text", [3, 4]), *([row] if row else []))
    with pytest.raises(DataError, match=re.escape(message)):
        codes_of(table, "text", keys=KEYS)


def test_a_file_is_read_whatever_its_integers(tmp_path):
    for dtype in (pl.List(pl.UInt16), pl.List(pl.Int32), pl.Array(pl.Int64, 2)):
        table = pl.DataFrame(
            {"item": ["a"], "modality": ["text"], "codes": pl.Series([[1, 2]], dtype=dtype), "more": [0]}
        )
        table.write_parquet(tmp_path / "ids.parquet")
        assert read_ids(tmp_path / "ids.parquet").rows() == [("a", "text", [1, 2])]


@pytest.mark.parametrize(
    "table",
    [
        {"item": ["a"], "codes": [[1]]},
        {"item": [1], "modality": ["text"], "codes": [[1]]},
        {"item": ["a"], "modality": ["text"], "codes": ["<a_1>"]},
        {"item": ["a"], "modality": ["text"], "codes": [[0.5]]},
    ],
)
def test_other_columns_are_refused(tmp_path, table):
    pl.DataFrame(table).write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(
        TableError, match=r"ids.parquet: expected columns item: String, modality: String, codes: a list"
    ):
        read_ids(tmp_path / "ids.parquet")


def test_a_file_that_is_not_there_or_not_parquet_is_refused(tmp_path):
    with pytest.raises(TableError, match="expected a file with IDs, found nothing"):
        read_ids(tmp_path / "ids.parquet")
    with pytest.raises(TableError, match="found a folder"):
        read_ids(tmp_path)
    (tmp_path / "ids.parquet").write_bytes(b"no")
    with pytest.raises(TableError, match="cannot be read"):
        read_ids(tmp_path / "ids.parquet")


def test_places_of_codes_by_hand():
    codes = np.array([[0, 0], [0, 1], [2, 0]])
    paths = estimated_paths(codes, torch.tensor([[1.0], [3.0], [10.0]]), size=3)
    # Code 0 of level 0 lies at (1 + 3) / 2 = 2 and code 2 at 10, which leaves -1, 1 and 0: code 0 of level 1 lies at
    # (-1 + 0) / 2 and code 1 at 1.
    np.testing.assert_allclose(paths.codebooks[0].flatten(), [2, np.nan, 10])
    np.testing.assert_allclose(paths.codebooks[1].flatten(), [-0.5, 1, np.nan])
    assert paths.residuals.flatten().tolist() == [1, 3, 10]


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_places_and_residuals_equal_a_loop(levels, monkeypatch):
    draw = np.random.default_rng(0)
    codes, vectors = draw.integers(0, 4, size=(40, levels)), draw.normal(size=(40, 3)).astype(np.float32)
    monkeypatch.setattr("tessera.codes.id_file.BLOCK", 3 * 7)
    paths = estimated_paths(codes, torch.from_numpy(vectors), size=5)
    left = vectors.astype(float)
    for level in range(levels):
        if level == max(levels - 2, 0):
            np.testing.assert_allclose(paths.residuals, left, atol=1e-5)
        places = np.full((5, 3), np.nan)
        for code in set(codes[:, level].tolist()):
            places[code] = left[codes[:, level] == code].mean(axis=0)
        np.testing.assert_allclose(paths.codebooks[level], places, atol=1e-5)
        left = left - places[codes[:, level]]
    assert paths.codebooks.shape == (levels, 5, 3)


def test_the_codebook_grows_to_the_largest_code():
    assert estimated_paths(np.array([[7]]), torch.zeros(1, 2), size=4).codebooks.shape == (1, 8, 2)
    assert estimated_paths(np.array([[1]]), torch.zeros(1, 2), size=4).codebooks.shape == (1, 4, 2)


def test_without_vectors_the_order_of_codes_decides():
    paths = estimated_paths(np.array([[0, 3], [0, 3], [0, 3]]), torch.empty(3, 0), size=4)
    assert reassign(paths, names=KEYS).tolist() == [[0, 3], [0, 0], [0, 1]]


def test_vectors_are_left_alone():
    vectors = torch.ones(2, 2)
    estimated_paths(np.array([[0], [0]]), vectors, size=2)
    assert (vectors == 1).all()


def test_the_published_ids_of_instruments_become_distinct(shared_data):
    folder = shared_data("instruments")
    table = read_ids(folder / "semantic_ids.parquet")
    vectors = pl.read_parquet(folder / "text_embeddings.parquet").sort("item")
    keys = vectors["item"].to_list()
    codes = codes_of(table, "text", keys=keys)
    assert (len(codes), len(np.unique(codes, axis=0))) == (6250, 5988)
    rows = torch.from_numpy(vectors["embedding"].to_numpy(writable=True))
    paths = estimated_paths(codes, rows, size=256)
    found = reassign(paths, names=keys)
    require_distinct(found, names=keys)
    assert np.array_equal(found[:, :2], codes[:, :2])
    assert int((found != codes).any(axis=1).sum()) == 6250 - 5988
