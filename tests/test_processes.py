"""Stages as processes: killed and started again, several at once under `torchrun`, and stopped by what is wrong."""

import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from tessera.artifacts import read_json, read_table
from tessera.schemas import RANKINGS
from tests.pipeline_runs import ROOT, SMALL, STAGES, run_stage, run_stages, write_params

PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BASE = SMALL | {
    "dataset.users": 81,  # an odd number, so that two processes have unequal shares
    "corpus.tasks": ["history text -> text", "history image -> image"],
    "corpus.teacher": "itemknn",  # so that sources have several targets, not all as many
    "corpus.taught": 2,
    "t5.epochs": 4,
    "t5.batch_size": 32,
    "t5.lambda_implicit": 0.0,
}
FIRST = list(STAGES)[: list(STAGES).index("train_t5")]


def command(stage: str, launcher: list[str]) -> list[str]:
    _, _, _, *options = shlex.split(STAGES[stage]["cmd"])
    return [*launcher, str(ROOT / "stages" / f"{stage}.py"), *options]


def start(stage: str, folder: Path, changes: dict, *, launcher: list[str] = PYTHON) -> psutil.Popen:
    write_params(folder / "params.yaml", BASE | changes)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return psutil.Popen(
        command(stage, launcher), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(stage: str, folder: Path, changes: dict, *, launcher: list[str] = PYTHON) -> None:
    process = start(stage, folder, changes, launcher=launcher)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder in which the stages before train_t5 have run."""
    return run_stages(FIRST, tmp_path_factory.mktemp("corpus"), BASE)


@pytest.fixture
def beside(corpus, tmp_path):
    """Return a function that gives a new folder with the data of the corpus."""

    def folder(name: str) -> Path:
        (tmp_path / name / "data").mkdir(parents=True)
        for made in (corpus / "data").iterdir():
            (tmp_path / name / "data" / made.name).symlink_to(made)
        return tmp_path / name

    return folder


def weights(folder: Path) -> bytes:
    return (folder / "data/train_t5/checkpoint/model.safetensors").read_bytes()


def kill_after_an_epoch(folder: Path, changes: dict, *, launcher: list[str] = PYTHON) -> None:
    """Start a training in folder, and kill its processes as soon as there is a checkpoint."""
    process = start("train_t5", folder, changes, launcher=launcher)
    while not list(folder.glob("checkpoints/*/last.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    for each in [process, *process.children(recursive=True)]:
        each.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "data/train_t5").exists()


def test_a_training_that_was_killed_ends_like_one_that_was_not(beside):
    killed, whole = beside("killed"), beside("whole")
    kill_after_an_epoch(killed, {"t5.epochs": 6})
    finish("train_t5", killed, {"t5.epochs": 6})
    finish("train_t5", whole, {"t5.epochs": 6})
    assert weights(killed) == weights(whole)
    curve = "metrics/plots/train_t5/plots/metrics/train_loss.tsv"
    for file in ("data/train_t5/history.json", "metrics/train_t5.json", curve):
        assert (killed / file).read_bytes() == (whole / file).read_bytes()
    assert not list(killed.glob("checkpoints/*"))


def test_two_processes_train_and_rank_as_one_does(beside):
    """Two processes share the batches, though they were killed in between, and the users without loss.

    Losses are the same but for rounding. A weight whose gradient is next to nothing may be an Adam step apart: the step
    is as long whatever the gradient's size.
    """
    one, two = beside("one"), beside("two")
    finish("train_t5", one, {})
    kill_after_an_epoch(two, {}, launcher=TORCHRUN)
    finish("train_t5", two, {}, launcher=TORCHRUN)
    alone, together = load_file_of(one), load_file_of(two)
    assert alone.keys() == together.keys()
    step = read_params(one)["t5"]["lr"]
    assert all(alone[name].allclose(together[name], atol=step) for name in alone)
    histories = [read_json(folder / "data/train_t5/history.json") for folder in (one, two)]
    for epoch_alone, epoch_together in zip(*histories, strict=True):
        assert epoch_together == pytest.approx(epoch_alone, rel=1e-4)

    (two / "data/rank_items").mkdir()
    checkpoint = two / "data/train_t5/checkpoint"
    checkpoint.rename(two / "data/train_t5/its_own")
    checkpoint.symlink_to(one / "data/train_t5/checkpoint")
    rescored = {"decode.rescoring": "history"}
    finish("rank_items", one, rescored)
    finish("rank_items", two, rescored, launcher=TORCHRUN)
    order = ["split", "modality", "user", "rank"]
    tables = [read_table(folder / "data/rank_items/rankings.parquet", RANKINGS).sort(order) for folder in (one, two)]
    assert tables[0].drop("score").equals(tables[1].drop("score"))
    assert read_json(one / "metrics/rank_items.json") == read_json(two / "metrics/rank_items.json")


def test_two_processes_align_modalities(beside):
    """An item's negatives are those of the whole batch, before the training and in it, as in one process."""
    one, two = beside("one"), beside("two")
    changes = {"t5.lambda_implicit": 0.1, "t5.accumulation": 2, "t5.alignment_epochs": 2}
    finish("train_t5", one, changes)
    finish("train_t5", two, changes, launcher=TORCHRUN)
    alone, together = (read_json(folder / "data/train_t5/history.json") for folder in (one, two))
    for epoch_alone, epoch_together in zip(alone, together, strict=True):
        assert epoch_together == pytest.approx(epoch_alone, rel=1e-4)
    assert 0 < alone[-1]["implicit_loss"] < alone[0]["implicit_loss"]


def read_params(folder: Path) -> dict:
    return YAML(typ="safe", pure=True).load(folder / "params.yaml")


def load_file_of(folder: Path) -> dict:
    return load_file(folder / "data/train_t5/checkpoint/model.safetensors")


def amazon(folder: Path, reviews: list[dict]) -> dict:
    """Write a category with these reviews into folder, and return the parameters that name it."""
    with gzip.open(folder / "reviews.json.gz", "wt") as file:
        file.writelines(json.dumps(review) + "\n" for review in reviews)
    shop = {"name": "mine", "format": "amazon2018", "reviews": "reviews.json.gz", "metadata": None, "pictures": None}
    return {"dataset": shop | {"checksums": {}, "watch": "reviews.json.gz", "max_malformed": 0.0, "expected": None}}


ERRORS = {
    "an unknown parameter": (
        "filter_reviews",
        {"filter.min_raiting": 3.0},
        ["params.yaml: filter.min_raiting: expected no such key, found 3.0"],
    ),
    "a value of the wrong type": (
        "train_quantizer",
        {"quant.lr": "1e-3"},
        ["params.yaml: quant.lr: expected a float, found '1e-3'"],
    ),
    "a missing file": (
        "evaluate",
        {},
        ["data/rank_items/rankings.parquet: expected a file, found nothing"],
    ),
    "items that vanish in the filter": (
        "filter_reviews",
        {"filter.k": 1000},
        ["filter.k = 1000: expected interactions to be left, found 0 of 81 users"],
    ),
    "more pseudo-labels than items": (
        "cluster_items",
        {"pseudo.clusters": 1000},
        ["text: expected pseudo.clusters = 1000 to be at most the number of items", "found 57 such items of 57"],
    ),
    "a codebook too small for the catalogue": (
        "resolve_collisions",
        {"quant.codebook_size": 2, "quant.levels": 2, "quant.con_start_level": 1},
        ["quant.codebook_size: expected an ID for each of 57 items, found none for 53: B", "2 levels make 4 IDs"],
    ),
    "a checkpoint of another vocabulary": (
        "rank_items",
        {},
        ["data/train_t5/checkpoint: expected a model of the vocabulary", "found one of"],
    ),
    "a missing checkpoint": (
        "rank_items",
        {},
        ["data/train_t5/checkpoint: expected a T5 checkpoint, found no config.json"],
    ),
}
BEFORE = {
    "a codebook too small for the catalogue": ["train_quantizer"],
    "a checkpoint of another vocabulary": ["train_t5"],
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_wrong_is_named_with_status_1_and_nothing_is_written(beside, what):
    stage, changes, messages = ERRORS[what]
    folder = beside("wrong")
    for earlier in BEFORE.get(what, []):
        (folder / "data" / earlier).unlink(missing_ok=True)
        run_stage(earlier, folder, BASE | changes | {"t5.epochs": 1})
    if what == "a checkpoint of another vocabulary":
        (folder / "data/build_corpus").unlink()
        run_stage("build_corpus", folder, BASE | {"quant.codebook_size": 9})
    told = failure(stage, folder, changes)
    assert all(message in told for message in messages), told


def test_an_empty_category_is_named(tmp_path):
    told = failure("download_reviews", tmp_path, amazon(tmp_path, []))
    assert all(message in told for message in ["reviews.json.gz: expected", "found"]), told


def failure(stage: str, folder: Path, changes: dict) -> str:
    """Return what a stage tells that must fail, and leave nothing of its own."""
    (folder / "data" / stage).unlink(missing_ok=True)
    before = files(folder)
    process = start(stage, folder, changes)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert told.startswith("error: ")
    assert files(folder) - before <= {folder / "params.yaml"}
    return told


def files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}
