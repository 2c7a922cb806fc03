import numpy as np
import polars as pl
import pytest

from tessera.experiments.results import Cell, find_rivals, on_the_latest_data
from tessera.experiments.runs import Experiment, Plan


def gains(*values, users=None):
    return pl.DataFrame({"user": users or list(range(len(values))), "gain": [float(value) for value in values]})


def rivals(**rows):
    return find_rivals(rows, flips=20_000, generator=np.random.default_rng(0))


def test_each_row_is_tested_against_the_best_other_one():
    """By hand: best beats middle in 4 of 8 users and loses none, so 2 of 2^4 flips are as far: p = 0.125.

    worst loses to best in 6 of 8: 2 of 2^6. Holm: three pairs were in play, so that the smallest is tripled and the
    next doubled.
    """
    found = rivals(
        middle=gains(1, 1, 0, 0, 0, 0, 0, 0),
        best=gains(1, 1, 1, 1, 1, 1, 0, 0),
        worst=gains(0, 0, 0, 0, 0, 0, 0, 0),
    )
    assert {row: rival.row for row, rival in found.items()} == {"middle": "best", "best": "middle", "worst": "best"}
    assert {row: rival.gain for row, rival in found.items()} == {"middle": -0.5, "best": 0.5, "worst": -0.75}
    p_values = {row: rival.p_value for row, rival in found.items()}
    assert p_values == pytest.approx({"middle": 2 * 2 / 16, "best": 2 * 2 / 16, "worst": 3 * 2 / 64}, abs=0.01)
    assert p_values["middle"] == p_values["best"]


def test_what_cannot_be_tested_is_not():
    assert rivals(alone=gains(1, 0), unknown=None) == {}
    assert rivals() == {}
    others = rivals(one=gains(1, 0), two=gains(0, 0, 0))
    assert others == {}, "the users are not the same"


def test_rows_of_other_users_are_rivals_among_themselves():
    """A row of another split may be the best of all: the others still have a rival, and none is compared with it."""
    found = rivals(
        base=gains(1, 1, 0, 0),
        worse=gains(1, 0, 0, 0),
        later=gains(1, 1, users=[0, 1]),
        later_worse=gains(0, 1, users=[0, 1]),
        alone=gains(1, users=[5]),
    )
    assert {row: rival.row for row, rival in found.items()} == {
        "base": "worse",
        "worse": "base",
        "later": "later_worse",
        "later_worse": "later",
    }


LOCK = """schema: '2.0'
stages:
  filter_reviews:
    deps:
    - path: elsewhere.csv
      md5: {commit}
  download_reviews:
    cmd: PYTHONPATH=src python stages/download_reviews.py
    deps:
    - path: /data/films
      hash: md5
      md5: {data}.dir
      nfiles: 3
    - path: src/tessera/items/amazon.py
      md5: {commit}
    - path: stages/download_reviews.py
      md5: {commit}
    params:
      params.yaml:
        dataset: demo
"""


def test_runs_on_other_data_than_the_latest_are_not_compared_with_it(monkeypatch):
    """What is in a folder changes, and its name does not. Code is no data."""
    data = {"old": "111", "same": "222", "latest": "222", "gone": None}
    locks = {commit: data[commit] and LOCK.format(commit=commit, data=data[commit]) for commit in data}
    monkeypatch.setattr("tessera.experiments.results._file_of", lambda experiment, _: locks[experiment.commit])
    runs = {
        Plan(commit, "films", 0, (), commit): Experiment(commit, "base", ended, None)
        for ended, commit in enumerate(["old", "same", "gone", "latest"])
    }
    assert [plan.row for plan in on_the_latest_data(runs)] == ["same", "latest"]
    assert on_the_latest_data({}) == []


READ = """
stages:
  download_reviews:
    deps:
    - path: reviews.csv
      md5: 1
    outs:
    - path: data/reviews.parquet
      md5: {commit}
  embed_text:
    deps:
    - path: {file}
      md5: {version}
    - path: data/reviews.parquet
      md5: {commit}
    - path: stages/embed_text.py
      md5: {commit}
    params:
      params.yaml: {{}}
"""


def test_runs_that_read_another_version_of_a_file_of_vectors_are_not_compared(monkeypatch):
    """Another file may be another row's; what another stage wrote follows from what that read."""
    files = {"old": ("vectors", 1), "other": ("more", 7), "same": ("vectors", 2), "latest": ("vectors", 2)}
    locks = {commit: READ.format(commit=commit, file=file, version=n) for commit, (file, n) in files.items()}
    monkeypatch.setattr("tessera.experiments.results._file_of", lambda experiment, _: locks[experiment.commit])
    runs = {
        Plan(commit, "films", 0, (), commit): Experiment(commit, "base", ended, None)
        for ended, commit in enumerate(files)
    }
    assert [plan.row for plan in on_the_latest_data(runs)] == ["other", "same", "latest"]


@pytest.mark.parametrize("stage", ["embed_text", "distill_images", "embed_images", "resolve_collisions"])
def test_every_stage_that_reads_a_file_is_looked_at_and_long_paths_are_told_apart(monkeypatch, stage):
    """DVC writes a long path on several lines."""
    long = "/home/user/My Documents/embedding vectors of the\n        instruments shop/vectors of model {}.parquet"
    files = {"a": (long.format("A"), 1), "b": (long.format("B"), 7), "old": ("vectors", 1), "latest": ("vectors", 2)}
    locks = {
        commit: READ.format(commit=commit, file=file, version=n).replace("embed_text:", f"{stage}:")
        for commit, (file, n) in files.items()
    }
    monkeypatch.setattr("tessera.experiments.results._file_of", lambda experiment, _: locks[experiment.commit])
    runs = {
        Plan(commit, "films", 0, (), commit): Experiment(commit, "base", ended, None)
        for ended, commit in enumerate(files)
    }
    assert [plan.row for plan in on_the_latest_data(runs)] == ["a", "b", "latest"]


def test_a_difference_is_relative_to_what_was_published():
    assert Cell(0.11, 0.01, 0.1).difference == pytest.approx(0.1)
    assert Cell(None, None, 0.1).difference is None
    assert Cell(0.11, None, None).difference is None
