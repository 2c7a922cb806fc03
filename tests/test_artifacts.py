import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from tessera.artifacts import (
    named_paths,
    read_json,
    read_parts,
    read_rows,
    read_table,
    read_tsv,
    scan_table,
    table_writer,
    whole_file,
    whole_folder,
    write_json,
    write_table,
    write_tsv,
)
from tessera.errors import ParamsError, TableError
from tessera.schemas import IDS, USERS, VECTORS


def users(*keys):
    table = {"user": range(len(keys)), "key": keys, "interactions": [5] * len(keys)}
    return pl.DataFrame(table, schema=USERS)


def vectors(width):
    schema = VECTORS | {"vector": pl.Array(pl.Float32, width)}
    return pl.DataFrame({"item": [0], "vector": [[0.5] * width], "present": [True]}, schema=schema)


def test_round_trip(tmp_path):
    write_table(tmp_path / "deep" / "users.parquet", users("a", "b"), USERS)
    assert read_table(tmp_path / "deep" / "users.parquet", USERS).equals(users("a", "b"))


@pytest.mark.parametrize("width", [1, 7])
def test_vectors_may_have_any_width(tmp_path, width):
    write_table(tmp_path / "v.parquet", vectors(width), VECTORS)
    assert read_table(tmp_path / "v.parquet", VECTORS).schema["vector"] == pl.Array(pl.Float32, width)


def test_pieces_become_one_table(tmp_path):
    with table_writer(tmp_path / "users.parquet", USERS) as write:
        write(users("a"))
        write(users("b", "c"))
    assert read_table(tmp_path / "users.parquet", USERS)["key"].to_list() == ["a", "b", "c"]


def test_a_table_is_read_by_its_row_groups(tmp_path):
    pieces = [pl.concat([vectors(7)] * 2), vectors(7)]
    with table_writer(tmp_path / "t.parquet", VECTORS) as write:
        for piece in pieces:
            write(piece)
    for found, piece in zip(read_parts(tmp_path / "t.parquet", VECTORS), pieces, strict=True):
        assert_frame_equal(found, piece)
    with pytest.raises(TableError, match=r"t.parquet: expected columns \{item: UInt32, modality"):
        next(read_parts(tmp_path / "t.parquet", IDS))


def test_a_table_of_no_pieces_is_empty(tmp_path):
    with table_writer(tmp_path / "t.parquet", VECTORS):
        pass
    assert read_table(tmp_path / "t.parquet", VECTORS).is_empty()


@pytest.mark.parametrize(
    "table", [users("a").drop("key"), users("a").with_columns(more=1), users("a").cast({"user": pl.Int64})]
)
def test_a_table_of_another_schema_is_refused_on_both_sides(tmp_path, table):
    with pytest.raises(TableError, match=r"expected columns \{user: UInt32"):
        write_table(tmp_path / "users.parquet", table, USERS)
    assert not list(tmp_path.iterdir())
    table.write_parquet(tmp_path / "users.parquet")
    with pytest.raises(TableError, match=r"users\.parquet: expected columns"):
        read_table(tmp_path / "users.parquet", USERS)


def test_what_is_no_table_is_named(tmp_path):
    with pytest.raises(TableError, match="nowhere: expected a file, found nothing"):
        read_table(tmp_path / "nowhere", IDS)
    with pytest.raises(TableError, match="expected a file, found a folder"):
        read_table(tmp_path, IDS)
    (tmp_path / "text").write_text("no table")
    with pytest.raises(TableError, match="text: cannot be read"):
        read_table(tmp_path / "text", IDS)
    with pytest.raises(TableError, match="text: cannot be read"):
        read_json(tmp_path / "text")


READERS = [
    lambda path: read_table(path, USERS),
    lambda path: read_rows(path, USERS, pl.col("user") >= 0),
    lambda path: scan_table(path, USERS).collect(),
    lambda path: pl.concat(read_parts(path, USERS)),
]


@pytest.mark.parametrize("read", READERS)
def test_brackets_in_a_path_are_no_pattern(tmp_path, read):
    for folder, key in (("shop[1]", "mine"), ("shop1", "another's")):
        write_table(tmp_path / folder / "users.parquet", users(key), USERS)
    assert read(tmp_path / "shop[1]" / "users.parquet")["key"].to_list() == ["mine"]
    with pytest.raises(TableError, match=r"shop\[2\].*: expected a file, found nothing"):
        read(tmp_path / "shop[2]" / "users.parquet")


@pytest.mark.parametrize("read", READERS[:2])
def test_a_file_that_is_damaged_inside_is_named(tmp_path, read):
    path = tmp_path / "users.parquet"
    write_table(path, users(*map(str, range(1000))), USERS)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"users\.parquet: cannot be read"):
        read(path)


def test_some_rows_are_read(tmp_path):
    write_table(tmp_path / "users.parquet", users("a", "b", "c"), USERS)
    found = read_rows(tmp_path / "users.parquet", USERS, pl.col("key") != "b")
    assert_frame_equal(found, users("a", "b", "c").filter(pl.col("key") != "b"))


@pytest.mark.parametrize("document", [{"a": {"b": float("nan")}}, [1.0, float("inf")]])
def test_json_without_finite_numbers_is_refused(tmp_path, document):
    with pytest.raises(TableError, match="expected a finite number"):
        write_json(tmp_path / "m.json", document)
    assert not list(tmp_path.iterdir())


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "m.json", {"é": [1, 0.5, None]})
    assert read_json(tmp_path / "m.json") == {"é": [1, 0.5, None]}
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {"é": [1, 0.5, None]}


@pytest.mark.parametrize("context", [whole_file, whole_folder])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, context):
    path = tmp_path / "thing"

    def write(text, *, fail):
        with context(path) as partial:
            (partial / "inside" if context is whole_folder else partial).write_text(text)
            if fail:
                raise RuntimeError

    def content():
        return (path / "inside" if context is whole_folder else path).read_text()

    with pytest.raises(RuntimeError):
        write("first", fail=True)
    assert not list(tmp_path.iterdir())
    write("second", fail=False)
    with pytest.raises(RuntimeError):
        write("third", fail=True)
    assert content() == "second"
    assert [file.name for file in tmp_path.iterdir()] == ["thing"]


def test_a_folder_that_a_killed_process_left_is_no_obstacle(tmp_path):
    for kind in ("partial", "before"):
        (tmp_path / f".thing.{os.getpid()}.{kind}" / "left").mkdir(parents=True)
    with whole_folder(tmp_path / "thing") as partial:
        (partial / "inside").write_text("new")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["thing", "thing/inside"]


@pytest.mark.parametrize("error", [PermissionError, KeyboardInterrupt])
def test_a_folder_that_cannot_take_its_place_leaves_what_was_there(tmp_path, monkeypatch, error):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "inside").write_text("old")
    move = Path.replace

    def refused(self, target):
        if self.name.endswith(".partial"):
            raise error(13, "no")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(error), whole_folder(tmp_path / "thing") as partial:
        (partial / "inside").write_text("new")
    assert (tmp_path / "thing" / "inside").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("context", [whole_file, whole_folder])
def test_where_nothing_can_be_written_the_error_names_the_folder(tmp_path, context):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="file: expected a folder to write to"), context(tmp_path / "file" / "thing"):
        pass


def test_named_paths():
    assert {name: str(path) for name, path in named_paths(["a=x/y", "b=z=1"]).items()} == {"a": "x/y", "b": "z=1"}
    for wrong in (["a"], ["=x"], ["a="]):
        with pytest.raises(ParamsError, match="expected NAME=PATH"):
            named_paths(wrong)
    with pytest.raises(ParamsError, match="a was given twice"):
        named_paths(["a=x", "a=y"])


def test_vectors_are_written_in_row_groups_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("tessera.artifacts.GROUP", 30)
    vectors = np.zeros((25, 4), np.float32)
    table = pl.DataFrame({"item": pl.Series(range(25), dtype=pl.UInt32), "vector": vectors, "present": [True] * 25})
    write_table(tmp_path / "vectors.parquet", table, VECTORS)
    file = pq.ParquetFile(tmp_path / "vectors.parquet").metadata
    assert [file.row_group(number).num_rows for number in range(file.num_row_groups)] == [7, 7, 7, 4]


def test_a_curve_is_read_as_it_was_written(tmp_path):
    table = pl.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]})
    write_tsv(tmp_path / "curve.tsv", table)
    assert (tmp_path / "curve.tsv").read_text() == "epoch\tloss\n1\t0.5\n2\t0.25\n"
    assert read_tsv(tmp_path / "curve.tsv").equals(table)


@pytest.mark.parametrize("there", [True, False])
def test_a_curve_that_is_none_is_named(tmp_path, there):
    if there:
        (tmp_path / "curve.tsv").write_text("")
    with pytest.raises(TableError, match=r"curve\.tsv: (expected a file, found nothing|cannot be read)"):
        read_tsv(tmp_path / "curve.tsv")
