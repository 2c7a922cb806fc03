import hashlib

from tessera.report.origin import fingerprint, origin_of, sections_of, spelled
from tests.finished_run import RECORD


def test_runs_machines_and_versions():
    other = RECORD | {
        "seconds": 1.5,
        "versions": {"python": "3.12.0", "torch": "2.13"},
        "machine": RECORD["machine"] | {"gpu": "A GPU"},
    }
    origin = origin_of({"embed_text": RECORD, "train_t5": other}, {}, [])
    assert [(run.stage, run.seconds) for run in origin.runs] == [("embed_text", 92.0), ("train_t5", 1.5)]
    assert origin.machines == ["A Processor, 2 cores; Linux", "A Processor, 2 cores; A GPU; Linux"]
    assert [(each.package, each.versions) for each in origin.versions] == [
        ("polars", ["2.1.0"]),
        ("python", ["3.11.7", "3.12.0"]),
        ("torch", ["2.13"]),
    ]


def test_parameters_by_section_with_those_of_none_first():
    parameters = {"system": "x", "quant": {"lr": 1e-05, "hidden": [16, 8]}, "seed": 0}
    assert sections_of(parameters) == [
        ("", [("system", "x"), ("seed", "0")]),
        ("quant", [("lr", "1e-05"), ("hidden", "[16, 8]")]),
    ]


def test_values_as_yaml_spells_them():
    assert [spelled(value) for value in (None, True, False, 0, {"a": None})] == [
        "null",
        "true",
        "false",
        "0",
        "{a: null}",
    ]


def test_fingerprint(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    assert fingerprint(tmp_path / "f") == ((tmp_path / "f").as_posix(), 7, hashlib.md5(b"content").hexdigest())
