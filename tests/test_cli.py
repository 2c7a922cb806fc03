import hashlib
import json
import subprocess
import sys

import polars as pl
import pytest

from tessera import cli
from tessera.errors import DataError
from tessera.schemas import IDS, ITEMS
from tessera.using.parts import RUN
from tests.command_line import typed
from tests.finished_run import HOSTILE, finish_run


@pytest.fixture
def run(tmp_path, params_file):
    (tmp_path / "run").mkdir()
    return finish_run(tmp_path / "run", params_file())


@pytest.fixture
def tessera(monkeypatch, capsys):
    """Run the command line; return its exit status, what it printed and what it complained of."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "120")
        return typed(monkeypatch, capsys, *arguments)

    return call


@pytest.fixture
def ids(run, tessera, tmp_path):
    """Return `ids(key)`, which types the command for a repository that holds the run's items and IDs."""
    model = tmp_path / "model"
    for part in ("params", "items", "ids"):
        (model / RUN[part]).parent.mkdir(parents=True, exist_ok=True)
    (model / RUN["params"]).touch()
    (model / RUN["items"]).symlink_to(run.items)
    (model / RUN["ids"]).symlink_to(run.ids)
    return lambda *arguments: tessera("ids", *arguments, "--model", model)


def words(line):
    return line.split()


def test_an_items_ids(ids):
    status, printed, _ = ids("B0018")
    assert not status
    lines = printed.splitlines()
    assert lines[:3] == ["B0018", "Thing 18", "Things > Fine"]
    # All items of 10 to 19 begin with 1; of the codes 1, 8 there is this one alone. Every ninth item was moved.
    assert [words(line) for line in lines[4:6]] == [
        ["text", "1-8-7", "10,", "1,", "1", "1-8-8"],
        ["image", "1-8-7", "10,", "1,", "1", "1-8-8"],
    ]


def test_an_item_that_stayed(ids):
    _, printed, _ = ids("B0013")
    assert words(printed.splitlines()[4]) == ["text", "1-3-7", "10,", "1,", "1", "the", "same"]


@pytest.mark.parametrize(
    ("prefix", "items"),
    [("text:2", range(20, 30)), ("image:2-4", [24]), ("text:2-4-7", [24]), ("text:2-", range(20, 30))],
)
def test_the_items_of_a_prefix(ids, prefix, items):
    status, printed, _ = ids(prefix)
    assert not status
    lines = printed.splitlines()
    assert [words(line) for line in lines[1:-1]] == [
        [f"2-{item % 10}-7", f"B{item:04}", "Thing", str(item)] for item in items
    ]
    assert lines[-1] == f"{len(items)} items begin with {prefix}"


def test_limit(ids):
    _, printed, _ = ids("text:2", "--limit", "3")
    assert len(printed.splitlines()) == 5
    assert "10 items begin with text:2; the first 3 are shown, --limit shows more" in printed


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("text:2-4-9", "text:2-4-9: expected after 2-4 one of the codes 7, found 9"),
        ("text:9", "text:9: expected first one of the codes 0, 1, 2, 3, found 9"),
        ("text:2-4-7-1", "text:2-4-7-1: expected at most 3 codes, found 1"),
        ("sound:2", "sound: expected a modality that has IDs, image, text, found none such"),
        ("zzz", "zzz: expected the key of an item, or an ID prefix as in text:12-7, found none like it"),
    ],
)
def test_what_cannot_be_found_is_explained(ids, wanted, message):
    status, printed, complaint = ids(wanted)
    assert status == 1
    assert message in " ".join(complaint.split())
    assert printed == ""


@pytest.mark.parametrize("typed", ["B00188", "B018", "b0018", "C0018"])
def test_an_unknown_key_brings_up_near_ones(ids, typed):
    status, _, complaint = ids(typed)
    assert status == 1
    assert "B0018  Thing 18" in complaint


def test_a_hostile_title_stays_text(ids):
    _, printed, _ = ids("B0001")
    assert HOSTILE.replace("\x1b", " ") in printed
    _, listed, _ = ids("text:0-1")
    assert "\x1b" not in listed
    assert "[31m" in listed


def test_a_key_that_looks_like_a_prefix_is_a_key(ids, run):
    items = pl.read_parquet(run.items)
    items.with_columns(key=pl.when(pl.col("item") == 5).then(pl.lit("text:2")).otherwise("key")).write_parquet(
        run.items
    )
    _, printed, _ = ids("text:2")
    assert printed.splitlines()[:2] == ["text:2", "Thing 5"]


def test_a_missing_file_is_told_and_which_stage_makes_it(run, ids):
    run.ids.unlink()
    status, _, complaint = ids("B0001")
    assert status == 1
    told = " ".join(complaint.split())
    assert "ids.parquet: expected the output of the stage resolve_collisions, found nothing" in told


def test_an_item_of_a_system_without_ids_has_none(run, ids):
    pl.read_parquet(run.ids).clear().write_parquet(run.ids)
    status, printed, _ = ids("B0001")
    assert not status
    assert "it has no semantic ID: the system has none" in printed


def test_a_folder_of_added_items_has_to_be_one(ids, tmp_path):
    status, _, complaint = ids("B0001", "--added", tmp_path / "none")
    assert status == 1
    assert "none: expected a folder that `tessera add-items` wrote, found nothing" in " ".join(complaint.split())


def show(run, tessera, **changes):
    paths = {"evaluate": run.evaluate, "intervals": run.intervals, "ids": run.ids, "ensemble": run.ensemble, **changes}
    return tessera("show", *(part for name, path in paths.items() for part in (f"--{name}", path)))


def test_show(run, tessera):
    status, printed, _ = show(run, tessera, report="nowhere.html")
    assert not status
    lines = printed.splitlines()
    assert "test split, 30 users" in lines[0]
    rows = {words(line)[0]: words(line) for line in lines if line.split()}
    assert list(rows)[2:7] == ["text", "image", "ensemble", "popularity", "final"]
    measured, drawn = cli.read_json(run.evaluate), cli.read_json(run.intervals)
    low, high = drawn["intervals"]["image"]["hr@10"]
    assert rows["image"][1:-1] == [f"{value:.4f}" for value in measured["image"].values()]
    assert rows["image"][-1] == f"{low:.4f}-{high:.4f}"
    assert f"recommendations  {run.ensemble}" in printed
    assert "nowhere.html" not in printed


def test_show_of_a_system_without_ids(run, tessera):
    _, printed, _ = show(run, tessera, ids=run.ids)
    assert f"semantic IDs     {run.ids}" in printed
    pl.DataFrame(schema=IDS).write_parquet(run.ids)
    status, printed, _ = show(run, tessera, ids=run.ids)
    assert not status
    assert "semantic IDs" not in printed


def test_show_with_intervals_of_another_run(run, tessera):
    known = json.loads(run.intervals.read_text())
    del known["intervals"]["image"]
    run.intervals.write_text(json.dumps(known))
    status, printed, _ = show(run, tessera)
    assert not status
    rows = {words(line)[0]: words(line) for line in printed.splitlines() if line.split()}
    assert len(rows["image"]) == len(rows["text"]) - 1


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A repository in which evaluate has run, and what dvc.lock says of it."""
    measured = json.dumps({name: {"hr@10": 0.5} for name in ("text", "popularity", "final")})
    drawn = {"confidence": 0.95, "users": {"test": 30}, "intervals": {"final": {"hr@10": [0.4, 0.6]}}}
    files = {"metrics/evaluate.json": measured, "data/evaluate/intervals.json": json.dumps(drawn)}
    outputs = ""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        outputs += f"    - path: {name}\n      hash: md5\n      md5: {digest}\n"
    stage = f"stages:\n  evaluate:\n    params:\n      params.yaml:\n        decode.fusion: mean\n    outs:\n{outputs}"
    (tmp_path / "dvc.lock").write_text(stage)
    (tmp_path / "params.yaml").write_text("decode: {fusion: mean}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_warns_of_measures_with_other_parameters(locked, tessera, caplog):
    _, printed, _ = tessera("show")
    assert "0.4000-0.6000" in printed
    assert not caplog.records
    (locked / "params.yaml").write_text("decode: {fusion: best}\n")
    status, printed, _ = tessera("show")
    assert not status
    assert "0.5000" in printed
    assert "these measures may be of another run: params.yaml: expected decode.fusion = 'mean'" in caplog.text


def test_show_of_a_repository_that_tells_nothing_still_shows(locked, tessera, caplog):
    (locked / "params.yaml").unlink()
    status, printed, _ = tessera("show")
    assert (status, "0.5000" in printed) == (0, True)
    assert "these measures may be of another run: params.yaml: " in caplog.text
    (locked / "dvc.lock").write_text("<<<<<<< HEAD")
    status, printed, _ = tessera("show")
    assert (status, "0.5000" in printed, "0.4000-0.6000" in printed) == (0, True, False)
    (locked / "dvc.lock").unlink()
    caplog.clear()
    assert "0.4000-0.6000" in tessera("show")[1]
    assert not caplog.records


def test_show_of_other_measures_has_no_interval_of_the_run(locked, tessera):
    (locked / "other.json").write_text((locked / "metrics/evaluate.json").read_text())
    assert "0.4000-0.6000" not in tessera("show", "--evaluate", "other.json")[1]


@pytest.mark.parametrize("other", ["metrics/evaluate.json", "data/evaluate/intervals.json"])
def test_show_leaves_out_intervals_of_another_run(locked, tessera, other):
    """As after `git checkout` of another run's measures: one of the two files is not what dvc.lock tells of."""
    (locked / other).write_text((locked / other).read_text() + " ")
    _, printed, _ = tessera("show")
    assert "0.4000-0.6000" not in printed
    for name in ("metrics/evaluate.json", "data/evaluate/intervals.json"):
        (locked / name).write_text((locked / name).read_text().strip() + "  ")
    assert "0.4000-0.6000" in tessera("show")[1], "both are of a run by hand"


def test_show_with_a_confidence_near_1(run, tessera):
    known = json.loads(run.intervals.read_text())
    run.intervals.write_text(json.dumps(known | {"confidence": 0.999}))
    _, printed, _ = show(run, tessera)
    assert "99.9% of hr@10" in printed


def test_show_without_intervals(run, tessera):
    _, printed, _ = show(run, tessera, intervals="nowhere.json")
    assert "95% of hr@10" not in printed
    assert "popularity" in printed


def test_show_of_nothing_measured_is_told(run, tessera):
    run.evaluate.write_text('{"valid": {}}')
    status, printed, complaint = show(run, tessera)
    assert (status, printed) == (1, "")
    assert "expected measures of at least one ranking, found none" in complaint


def test_show_without_metrics_is_told(run, tessera):
    status, printed, complaint = show(run, tessera, evaluate="nowhere.json")
    assert (status, printed) == (1, "")
    assert "nowhere.json: expected a file, found nothing" in complaint


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("text:12-7", ("text", [12, 7])),
        ("image_2:0", ("image_2", [0])),
        ("text:", None),
        ("text", None),
        ("text:12--7", None),
        ("Text:1", None),
        ("text:1-2 ", None),
    ],
)
def test_parsed_prefix(text, prefix):
    assert cli.parsed_prefix(text) == prefix


def test_codes_of_unequal_length():
    rows = [(0, "text", [1, 2], [1, 2], False), (1, "text", [1, 2, 0], [1, 2], True)]
    ids = pl.DataFrame(rows, schema=IDS, orient="row")
    items = pl.DataFrame([(0, "a", "", "", [], True, 1), (1, "b", "", "", [], True, 1)], schema=ITEMS, orient="row")
    assert cli.items_under(cli.Prefix("text", [1, 2]), ids, items)["key"].to_list() == ["a", "b"]
    assert cli.items_under(cli.Prefix("text", [1, 2, 0]), ids, items)["key"].to_list() == ["b"]
    assert cli.ids_of(1, ids)[0]["sharing"] == [2, 2, 1]
    with pytest.raises(DataError, match="at most 3 codes"):
        cli.items_under(cli.Prefix("text", [1, 2, 0, 1]), ids, items)


def test_help_needs_nothing_heavy():
    code = "import sys, tessera.cli; print(sorted({'torch', 'transformers', 'sklearn', 'dvc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
