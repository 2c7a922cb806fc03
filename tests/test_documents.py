"""Every command of the README and of docs/ is typed here, on a shop of a few shoppers."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import polars as pl
import pytest
from ruamel.yaml import YAML

from tessera.artifacts import read_json, read_table
from tessera.compose import composed
from tessera.experiments.tables import load_table
from tessera.items.demo import write_demo
from tessera.params import Params, parsed_section
from tessera.schemas import IDS, IMAGES, ITEMS, RAW_ITEMS, REVIEWS, VECTORS, WEIGHTS
from tests.documents import PAGES, anchors_of, commands_of, links_of, uses_a_model
from tests.pipeline_runs import CONF, ROOT, SMALL, STAGES, run_stage, run_stages
from tests.tiny_models import bert_like, clip_folder

COMMANDS = [command for page in PAGES for command in commands_of(page)]

#: What `dvc exp run` is given; runs are cheap, so that each is done in this process and without DVC.
EXPERIMENTS = sorted({c for c in COMMANDS if c.text.startswith("dvc exp run") and c.overrides}, key=lambda c: c.text)

#: The published depth takes time.
FEW = {"t5.encoder_layers": 1, "t5.decoder_layers": 1}

#: What stands in the documents for a folder of one's own.
FOLDERS = {"/path/to/folder", "/path/to/movielens_small", "catalogue"}

#: Commands that a shell types in a repository, one after the other, and what each prints.
TYPED = {
    "dvc repro": "Data and pipelines are up to date",
    "dvc exp run -S quant.lambda_con=0.5": "Ran experiment",
    "dvc metrics diff": "quantizer",
    "dvc exp show --only-changed --drop '^(?!Experiment|final|seed|system|quant|t5|decode)'": "lambda_con",
    "dvc metrics diff --targets metrics/evaluate.json": "final.hr@10",
    "dvc params diff": "quant.lambda_con",
    "dvc plots diff": "index.html",
    "git checkout . && dvc checkout": "",
    "make params": "",
    "tessera show": "popularity",
    "tessera ids BPKBIV0UDB": "modality",
    "tessera ids text:12": "items begin with",
    "dvc remote add --default store /path/to/store": "as a default remote",
    "dvc push": "pushed",
    "dvc pull": "up to date",
}

#: Commands that stand in a queue for what they do, and those that set more to work on it.
QUEUED = ("dvc exp run --queue -S seed=0,1,2", "dvc queue start")
MORE = ("CUDA_VISIBLE_DEVICES=0 dvc queue start", "CUDA_VISIBLE_DEVICES=1 dvc queue start --jobs 2")

#: How long the first of the queued experiments may take, and how long to wait before asking again.
SECONDS, PAUSE = 300, 5

#: Commands that other tests, or those who start them, run; and where.
ELSEWHERE = {
    "make repro": ".ci/run",
    "make test": ".ci/run",
    "python experiments/efficientnet_lite.py encoders": "tests/experiments/test_efficientnet_lite.py",
    **{c.text: "tests/experiments/test_commands.py" for c in COMMANDS if c.text.startswith("tessera experiments ")},
    **{c.text: "tests/using/test_commands.py" for c in COMMANDS if uses_a_model(c)},
}


def test_the_documents_have_commands_and_every_one_is_run():
    assert len(COMMANDS) > 20
    known = {*TYPED, *ELSEWHERE, *QUEUED, *MORE, *(command.text for command in EXPERIMENTS)}
    assert {command.text for command in COMMANDS} - known == set()
    assert {*TYPED, *ELSEWHERE} - {command.text for command in COMMANDS} == set(), "in no document any more"


LINKS = [(page, link) for page in PAGES for link in links_of(page)]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page.name} {link}" for page, link in LINKS])
def test_a_link_of_the_documents_leads_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    assert target.exists()
    assert not anchor or anchor in anchors_of(target)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder as docs/tutorial.md describes it, of what the demo shop sells."""
    run = tmp_path_factory.mktemp("run")
    run_stages(["download_reviews", "fetch_images"], run, SMALL)
    folder = tmp_path_factory.mktemp("folder") / "shop"
    (folder / "pictures").mkdir(parents=True)
    reviews = read_table(run / "data/download_reviews/reviews.parquet", REVIEWS)
    dates = pl.from_epoch("time", time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S")
    reviews.select(user="user_key", item="item_key", timestamp=dates).write_csv(folder / "interactions.csv")
    pictures = read_table(run / "data/fetch_images/images.parquet", IMAGES).filter(pl.col("picture").is_not_null())
    for key, picture in pictures.select("key", "picture").iter_rows():
        (folder / "pictures" / f"{key}.jpg").write_bytes(picture)
    items = read_table(run / "data/download_reviews/items.parquet", RAW_ITEMS)
    items.select(
        "title",
        "description",
        item="key",
        categories=pl.col("categories").list.join("|"),
        image=pl.when(pl.col("key").is_in(pictures["key"].implode())).then(pl.format("pictures/{}.jpg", "key")),
    ).write_csv(folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What readers are told to name, and a data set and models are taken from: the demo shop's, and small models."""
    folder = tmp_path_factory.mktemp("own")
    stages = list(STAGES)
    run_stages(stages[: stages.index("build_corpus")], folder, SMALL)
    write_demo(folder, users=SMALL["dataset.users"], items=SMALL["dataset.items"], seed=0)
    keys = read_table(folder / "data/filter_reviews/items.parquet", ITEMS).select("item", "key")

    def by_key(table: pl.DataFrame) -> pl.DataFrame:
        return table.join(keys, on="item").drop("item").rename({"key": "item"})

    paths = {name: folder / f"{name}.parquet" for name in ("text", "image", "ids")}
    for modality, stage in (("text", "embed_text"), ("image", "embed_images")):
        by_key(read_table(folder / f"data/{stage}/vectors.parquet", VECTORS)).write_parquet(paths[modality])
    by_key(read_table(folder / "data/resolve_collisions/ids.parquet", IDS)).write_parquet(paths["ids"])
    return {
        "encoder=sentence": {
            "text.model": str(bert_like(folder / "bert")),
            "text.max_tokens": 16,
            "image.model": f"local-dir:{clip_folder(folder / 'clip')}",
            "image.checkpoint": None,
        },
        "encoder=precomputed": {f"{name}.path": str(paths[name]) for name in ("text", "image")},
        "ids.source=file": {"ids.path": str(paths["ids"])},
        "dataset=instruments": {
            "dataset.reviews": str(folder / "reviews.json.gz"),
            "dataset.metadata": str(folder / "meta.json.gz"),
            "dataset.expected": None,
            "t5.epochs": 1,
        },
    }


@pytest.mark.parametrize("command", EXPERIMENTS, ids=lambda command: command.text)
def test_an_experiment_of_the_documents(command, shop, own, tmp_path):
    overrides = [_here(override, shop) for override in command.overrides if not override.startswith("seed=")]
    parsed_section(composed(CONF, overrides), Params, source=CONF)
    named = {override.partition("=")[0] for override in overrides}
    changes = {key: value for key, value in (SMALL | FEW).items() if key not in named}
    if "dataset" in named:
        changes = {key: value for key, value in changes.items() if not key.startswith("dataset.")}
    for override in overrides:
        changes |= own.get(override, {})
    for stage in STAGES:
        run_stage(stage, tmp_path, changes, overrides=overrides)
    assert 0 <= read_json(tmp_path / "metrics/evaluate.json")["final"]["hr@10"] <= 1


def test_a_row_of_instruments_with_files_of_ones_own(own, tmp_path):
    table = load_table(ROOT / "experiments", "instruments")
    overrides = [*table.overrides, *table.rows["semantic IDs, itemknn and sasrec, seen left out"].overrides]
    changes = {key: value for key, value in (SMALL | FEW).items() if not key.startswith("dataset.")}
    for named in ("dataset=instruments", "encoder=precomputed", "ids.source=file"):
        changes |= own[named]
    for stage in STAGES:
        run_stage(stage, tmp_path, changes, overrides=["dataset=instruments", *overrides])
    weights = read_table(tmp_path / "data/evaluate/weights.parquet", WEIGHTS)
    assert weights["modality"].to_list() == ["image", "itemknn", "sasrec", "text"]
    assert 0 < read_json(tmp_path / "metrics/evaluate.json")["final"]["hr@10"] <= 1


def _here(override: str, shop: Path) -> str:
    key, _, value = override.partition("=")
    return f"{key}={shop}" if value in FOLDERS and key.startswith("dataset.") else override


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of the project whose defaults are small, after its first run."""
    folder = tmp_path_factory.mktemp("repository")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split("\0")[:-1]:
        if name.startswith((".dvc", "conf/", "src/", "stages/")) or "/" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink()
    (folder / "metrics").mkdir()
    make_small(folder / "conf")
    typed(folder, "git init -q && git config user.name Tester && git config user.email tester@example.org")
    typed(folder, f"{sys.executable} -m tessera.compose && git add -A && git commit -q -m 'A small shop'")
    typed(folder, "dvc repro -q && git add -A && git commit -q -m 'Run it'")
    return folder


def make_small(conf: Path) -> None:
    """Have the root of conf/ end with the values of SMALL, and batches so small that a changed parameter is seen."""
    values: dict = {}
    for dotted, value in (SMALL | {"t5.batch_size": 64}).items():
        section, _, key = dotted.rpartition(".")
        (values.setdefault(section, {}) if section else values)[key] = value
    with (conf / "few.yaml").open("w") as file:
        file.write("# @package _global_\n")
        YAML().dump(values, file)
    root = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(re.sub(r"(?m)^defaults:\n((?:  - .*\n)+)", r"defaults:\n\1  - few\n", root))


def typed(folder: Path, command: str) -> str:
    """Return what a shell prints that types command in folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with TemporaryFile("w+") as told:  # of a pipe the workers of a queue would keep an end, and be waited for
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdout=told, stderr=told, check=False
        )
        told.seek(0)
        printed = told.read()
    assert done.returncode == 0, f"{command}: {printed}"
    return printed


def test_commands_typed_one_after_the_other(repository, tmp_path):
    ids = read_table(repository / "data/resolve_collisions/ids.parquet", IDS)
    key = read_table(repository / "data/filter_reviews/items.parquet", ITEMS)["key"][0]
    code = ids.filter(modality="text")["codes"][0][0]
    for command, told in TYPED.items():
        here = command.replace("BPKBIV0UDB", key).replace("text:12", f"text:{code}")
        here = here.replace("/path/to/store", str(tmp_path / "store"))
        here = here.replace("make params", f"{sys.executable} -m tessera.compose")  # without a new environment
        assert told in typed(repository, here), command


def test_queued_experiments_run(repository):
    """In copies of the repository; the last two stages, which a new default concerns, say as much of that as all."""
    few = repository / "conf" / "few.yaml"
    assert "resamples: 50" in few.read_text()
    few.write_text(few.read_text().replace("resamples: 50", "resamples: 40"))
    for command in QUEUED:
        typed(repository, command)
    for _ in range(SECONDS // PAUSE):
        told = typed(repository, "dvc queue status")
        if "Success" in told:
            break
        assert "Failed" not in told
        time.sleep(PAUSE)  # to ask takes as much of a core as a small stage does
    for command in MORE:
        typed(repository, command)
    typed(repository, "dvc queue stop --kill && dvc queue remove --all")
    assert "Success" in told
