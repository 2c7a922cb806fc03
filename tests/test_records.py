import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from typer.testing import CliRunner

from tessera.errors import DataError
from tessera.records import record_of_process, write_record
from tessera.runtime import command


def stage(
    items: Annotated[int, typer.Option(help="How many.")], to: Annotated[Path, typer.Option(help="Where.")]
) -> None:
    """Tell of items."""
    if items == 0:
        raise DataError("items: expected some, found 0")
    to.write_text(str(items))


def call(*arguments):
    return CliRunner().invoke(command(stage), [str(argument) for argument in arguments])


def test_what_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    before = record_of_process()
    held = bytearray(200 * 2**20)
    time.sleep(0.02)
    after = record_of_process()
    assert after["peak_bytes"] >= max(before["peak_bytes"], len(held))
    assert 0 < before["seconds"] < after["seconds"]
    assert before["processes"] == 3
    assert before["versions"]["python"] == sys.version.split()[0]
    assert before["versions"].keys() >= {"numpy", "polars"}
    assert before["machine"]["cores"] >= 1
    assert before["gpu_peak_bytes"] is None


def test_versions_are_those_of_what_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "polars")
    assert "polars" not in record_of_process()["versions"]


def test_a_record_is_json(tmp_path):
    write_record(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()).keys() == record_of_process().keys()


def test_a_stage_leaves_a_record_where_it_is_asked_to(tmp_path):
    assert call("--items", 3, "--to", tmp_path / "to", "--record", tmp_path / "record.json").exit_code == 0
    assert (tmp_path / "to").read_text() == "3"
    assert json.loads((tmp_path / "record.json").read_text())["seconds"] > 0
    (tmp_path / "record.json").unlink()
    assert call("--items", 3, "--to", tmp_path / "to").exit_code == 0
    assert not (tmp_path / "record.json").exists()


def test_a_run_that_fails_leaves_none(tmp_path):
    assert call("--items", 0, "--to", tmp_path / "to", "--record", tmp_path / "record.json").exit_code != 0
    assert not (tmp_path / "record.json").exists()


def test_of_several_processes_the_first_leaves_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    call("--items", 3, "--to", tmp_path / "to", "--record", tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()
