"""`tessera experiments` from end to end, in a repository whose one stage takes no time."""

import csv
import logging
import re
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tessera.cli import commands
from tessera.errors import ParamsError, SourceError
from tessera.experiments.runs import find_experiments, fingerprint, git
from tessera.params import Params, parsed_section
from tests.experiments.test_runs import params
from tests.pipeline_runs import ROOT

CONF = ROOT / "conf"

#: Writes what the real stages do. User u of 12 finds his target at rank 1 if the system is tiger, else if u is even;
#: the seed decides for user 0.
STAGE = """
import json, os, pathlib
import polars as pl
from ruamel.yaml import YAML
from tessera.schemas import PER_USER

params = YAML(typ="safe", pure=True).load(pathlib.Path("params.yaml"))
assert params["system"] != "mql4grec", "this system fails"
found = [params["system"] == "tiger" or user % 2 == 0 for user in range(12)]
found[0] = params["seed"] == 0
rows = [("test", user, "text", 0, 1 if hit else None, 0, 1) for user, hit in enumerate(found)]
rows += [(split, user, name, 0, None, 0, 1) for user in range(12) for split, name in
         [("valid", "text"), ("test", "popularity")]]
for folder in ("data/evaluate", "metrics"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
pl.DataFrame(rows, schema=PER_USER, orient="row").write_parquet("data/evaluate/per_user.parquet")
text = {"hr@10": sum(found) / 12}
json.dump({"popularity": {"hr@10": 0.0}, "text": text, "final": text, "valid": {}}, open("metrics/evaluate.json", "w"))
json.dump({"parameters": 1234}, open("metrics/train_t5.json", "w"))
with open(os.environ["STAGE_RUNS"], "a") as file:
    print(params["system"], params["seed"], file=file)
"""

DVC_YAML = f"""
stages:
  evaluate:
    cmd: {sys.executable} stage.py
    deps: [stage.py]
    params: [system, seed, quant]
    outs: [data/evaluate/per_user.parquet]
    metrics:
      - metrics/evaluate.json: {{cache: false}}
      - metrics/train_t5.json: {{cache: false}}
"""

TABLE = """
title: Two systems
datasets: [demo]
seeds: 2
measures: {HR@10: evaluate.final.hr@10, nothing: evaluate.final.nothing}
rows:
  good: {overrides: [system=tiger], published: {demo: {HR@10: 0.5}}}
  poor: {overrides: [system=rkmeans, t5.lr=1e-05, 'corpus.tasks=["history text -> text", "item image -> text"]']}
  the same: {overrides: [system=tiger]}
  to come: {overrides: [system=nowhere]}
  elsewhere: {overrides: null, published: {demo: {HR@10: 0.25}}}
"""


def call(*words, cwd):
    subprocess.run(words, cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "conf", folder / "conf")
    files = {
        "stage.py": STAGE,
        "dvc.yaml": DVC_YAML,
        "experiments/mine.yaml": TABLE,
        ".gitignore": "/data/\n/report/\n",
    }
    files["experiments/bad.yaml"] = TABLE.replace("tiger", "mql4grec")
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(ROOT / "params.yaml", folder)
    call("git", "init", "-q", cwd=folder)
    call("git", "config", "user.name", "Tester", cwd=folder)
    call("git", "config", "user.email", "tester@example.org", cwd=folder)
    call(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    call("git", "add", "-A", cwd=folder)
    call("git", "commit", "-q", "-m", "Begin", cwd=folder)
    return folder


@pytest.fixture
def tessera(repository, monkeypatch, caplog):
    """Call `tessera experiments` in the repository; return its exit status, and what it printed and logged."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("STAGE_RUNS", str(repository.with_name("runs")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("COLUMNS", "200")
    caplog.set_level(logging.INFO, logger="tessera")

    def experiments(*words):
        caplog.clear()
        done = CliRunner().invoke(commands, ["experiments", *words], catch_exceptions=False)
        return done.exit_code, f"{done.output}\n{caplog.text}"

    return experiments


def stage_runs(repository):
    return sorted(repository.with_name("runs").read_text().split("\n")[:-1])


def status(repository):
    done = subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout


def shown(repository, table):
    with (repository / f"report/experiments/{table}.csv").open() as file:
        return {row["row"]: row for row in csv.DictReader(file) if row["measure"] == "HR@10"}


def test_what_is_not_there_is_run_once_and_compared(repository, tessera):
    """By hand: good finds 12 and 11 of 12, poor 6 and 5; they differ in the six odd users, so that p is 2 of 2^6."""
    code, told = tessera("show", "mine")
    assert code == 0
    assert told.count("not run") == 3

    code, told = tessera("run", "mine")
    assert code == 0, told
    assert "mine: 0 runs are there, 4 are to be done" in told
    assert "to come, demo: cannot be composed: " in told
    assert "4 of 4: " in told
    assert stage_runs(repository) == ["rkmeans 0", "rkmeans 1", "tiger 0", "tiger 1"]
    assert status(repository) == ""

    code, told = tessera("run", "mine")
    assert code == 0
    assert "mine: 4 runs are there, 0 are to be done" in told
    assert len(stage_runs(repository)) == 4

    code, told = tessera("show", "mine", "--flips", "2000")
    assert code == 0
    assert "nothing: no run has evaluate.final.nothing" in told
    assert "HR@10: no run" not in told
    rows = shown(repository, "mine")
    assert float(rows["good"]["mean"]) == pytest.approx(11.5 / 12)
    assert float(rows["good"]["deviation"]) == pytest.approx(0.5**0.5 / 12)
    assert float(rows["good"]["relative_difference"]) == pytest.approx(11.5 / 12 / 0.5 - 1)
    assert (rows["good"]["best_other"], rows["good"]["gain"], rows["good"]["p_value"]) == ("the same", "0.0", "1.0")
    assert (rows["poor"]["best_other"], float(rows["poor"]["gain"])) == ("good", -0.5)
    assert float(rows["poor"]["p_value"]) == pytest.approx(3 * 2 / 2**6, abs=0.02)
    assert rows["poor"]["parameters"] == "1234"
    assert 0 <= float(rows["poor"]["seconds"]) < 60
    assert rows["to come"]["status"].startswith("cannot be composed: ")
    assert rows["elsewhere"]["status"] == "published figures only"
    assert "good" in (repository / "report/experiments/mine.md").read_text()
    assert "<html" in (repository / "report/experiments/mine.html").read_text()


@pytest.mark.parametrize("command", ["run", "show"])
def test_a_setting_that_no_row_can_have_is_an_error_and_the_last_table_stays(repository, tessera, command):
    tessera("show", "mine")
    before = (repository / "report/experiments/mine.csv").read_bytes()
    with pytest.raises(ParamsError, match=r"mine: expected a row that can be composed, found none in \d+: .*nope"):
        tessera(command, "mine", "-S", "t5.nope=1")
    assert (repository / "report/experiments/mine.csv").read_bytes() == before


def test_a_table_of_some_rows_says_so(repository, tessera):
    tessera("show", "mine", "--rows", "good")
    assert "Two systems; of 5 rows good" in (repository / "report/experiments/mine.md").read_text()


def test_a_setting_that_a_row_hides_is_told_of(tessera):
    _, told = tessera("show", "mine", "-S", "system=sasrec", "--rows", "good")
    assert "-S system=sasrec: without effect on what sets it by itself: good" in told
    _, told = tessera("show", "mine", "-S", "quant.levels=3", "--rows", "good")
    assert "without effect" not in told


def test_runs_on_data_that_has_changed_since_are_told_of(repository, tessera, monkeypatch):
    code, told = tessera("run", "mine", "--seeds", "1")
    assert code == 0
    assert "on other data" not in told
    monkeypatch.setattr("tessera.experiments.results.on_the_latest_data", lambda runs: list(runs)[1:])
    assert re.search(
        r"good, demo, seed 0 \(\*-[0-9a-f]{12}\): on other data than", tessera("run", "mine", "--seeds", "1")[1]
    )
    tessera("show", "mine", "--seeds", "1")
    assert "on other data than the latest run" in shown(repository, "mine")["good"]["status"]
    assert shown(repository, "mine")["good"]["mean"] == ""


def test_a_run_is_found_after_another_commit_and_a_new_seed_is_run(repository, tessera):
    mine = ("mine", "--rows", "good", "-S", "quant.levels=2", "--seeds")
    assert tessera("run", *mine, "1")[0] == 0
    (repository / "README.md").write_text("More.\n")
    call("git", "add", "-A", cwd=repository)
    call("git", "commit", "-q", "-m", "Say more", cwd=repository)
    before = stage_runs(repository)
    code, told = tessera("run", *mine, "2")
    assert code == 0
    assert "mine: 1 runs are there, 1 are to be done" in told
    assert len(stage_runs(repository)) == len(before) + 1
    assert "2 of 4 seeds" in tessera("show", *mine, "4")[1]


def test_a_run_has_the_parameters_that_its_name_says(repository, tessera):
    tessera("run", "mine", "--seeds", "1")
    found = find_experiments(CONF)
    assert len(found) >= 2
    for mark, experiment in found.items():
        params = git("show", f"{experiment.commit}:params.yaml").decode()
        assert fingerprint(parsed_section(params, Params, source=repository)) == mark


def rewritten(repository, experiment, change):
    """Put a run in the place of experiment whose params.yaml is that of it after change."""
    params = git("show", f"{experiment.commit}:params.yaml").decode()
    (repository / ".dvc/tmp/params.yaml").write_text(change(params))
    blob = git("hash-object", "-w", ".dvc/tmp/params.yaml").decode().strip()
    tree = (
        git("ls-tree", experiment.commit)
        .decode()
        .replace(git("rev-parse", f"{experiment.commit}:params.yaml").decode().strip(), blob)
    )
    (repository / ".dvc/tmp/tree").write_text(tree)
    with (repository / ".dvc/tmp/tree").open() as file:
        made = subprocess.run(["git", "mktree"], stdin=file, capture_output=True, check=True).stdout.decode().strip()
    commit = git("commit-tree", made, "-p", experiment.baseline, "-m", "An older run").decode().strip()
    ref = next(line.split()[1] for line in git("show-ref").decode().splitlines() if experiment.commit in line)
    git("update-ref", ref, commit)


def test_a_parameter_that_a_run_did_not_know_counts_as_its_default(repository, tessera):
    """A run of a time without quant.alpha had 0.25, as conf/ says; one with a parameter that is gone is no run."""
    asked = params("system=tiger", "quant.levels=6")
    tessera("run", "mine", "--rows", "good", "--seeds", "1", "-S", "quant.levels=6")
    there = find_experiments(CONF)[fingerprint(asked)]

    rewritten(repository, there, lambda text: text.replace("  alpha: 0.25\n", ""))
    found = find_experiments(CONF)
    assert found[fingerprint(asked)].commit != there.commit
    assert fingerprint(params("system=tiger", "quant.levels=6", "quant.alpha=0.5")) not in found

    rewritten(repository, found[fingerprint(asked)], lambda text: text.replace("quant:\n", "quant:\n  beta: 0.25\n"))
    assert fingerprint(asked) not in find_experiments(CONF)


def test_ranks_that_are_not_in_the_cache_leave_the_measures(repository, tessera):
    tessera("run", "mine", "--rows", "good", "--rows", "poor", "--seeds", "1")
    cache = repository / ".dvc/cache"
    cache.rename(repository / ".dvc/tmp/aside")
    try:
        code, _ = tessera("show", "mine", "--seeds", "1")
    finally:
        (repository / ".dvc/tmp/aside").rename(cache)
    assert code == 0
    assert shown(repository, "mine")["good"]["mean"] == "1.0"
    assert {row["best_other"] for row in shown(repository, "mine").values()} == {""}


def test_a_run_that_fails_is_named_with_its_log_and_stops_no_other(repository, tessera):
    code, told = tessera("run", "bad", "--seeds", "1", "-S", "quant.levels=3")
    assert code == 1
    log = next(word.rstrip(":") for word in told.split() if word.endswith(".log:"))
    assert "failed, see report/experiments/logs/bad-" in told
    assert "1 of 2 runs failed" in told
    assert "this system fails" in (repository / log).read_text()
    assert status(repository) == ""
    tessera("show", "bad", "--seeds", "1", "-S", "quant.levels=3")
    assert [shown(repository, "bad")[row]["status"] for row in ("good", "poor")] == ["not run", ""]


def test_where_no_row_can_be_composed_the_command_fails(tessera):
    with pytest.raises(ParamsError, match="mine: expected a row that can be composed, found none in 4"):
        tessera("run", "mine", "--dataset", "nowhere")


@pytest.mark.parametrize(("setting", "option"), [("seed=7", "--seeds"), ("dataset=beauty", "--dataset")])
def test_what_the_table_sets_is_no_setting_of_all_rows(tessera, setting, option):
    with pytest.raises(ParamsError, match=rf"{setting}: expected a setting of every row, found what {option} says"):
        tessera("run", "mine", "-S", setting)


def test_outside_a_repository_the_error_says_so(tmp_path, tessera, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="not a git repository"):
        tessera("run", "demo", "--tables", str(ROOT / "experiments"), "--conf", str(ROOT / "conf"))
