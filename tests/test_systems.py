"""Every system of conf/system, from its vectors to its report, on a shop of a few shoppers."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tessera.artifacts import read_json, read_table
from tessera.errors import DataError
from tessera.schemas import IDS, INTERACTIONS, RANKINGS
from tessera.using.additions import add_items
from tessera.using.exporting import write_export
from tessera.using.recommender import Recommender
from tessera.using.shop import load_shop, write_added
from tests.pipeline_runs import CONF, ROOT, SMALL, STAGES, run_stage, run_stages
from tests.recommended import assert_as_the_pipeline

SYSTEMS = sorted(path.stem for path in (ROOT / "conf" / "system").glob("*.yaml"))

#: The stages that the systems share; the others are run for each.
SHARED = list(STAGES)[: list(STAGES).index("distill_images")]

#: What a system's rankings are called.
RANKED = {
    "tiger": {"text"},
    "letter": {"text"},
    "mscgrec": {"collaborative"},
    "lcrec_ids": {"text"},
    "sasrec": {"sasrec"},
    "bert4rec": {"bert4rec"},
    "mgr_early": {"joint"},
    "mgr_late": {"joint"},
    "mgr_late_plus": {"joint"},
    "itemknn": {"itemknn"},
    "slist": {"slist"},
    "als": {"als"},
    "bpr": {"bpr"},
    "popularity": set(),
}
MEASURES = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}
BOTH = {"text", "image", "ensemble"}

#: Systems that need no epochs to tell more than popularity. The others learn too little on so small a shop, but they
#: begin to: what the whole demo shop shows of them is held to the README by tests/test_measured_tables.py.
AT_ONCE = {"itemknn", "slist", "als", "bpr"}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return run_stages(SHARED, tmp_path_factory.mktemp("items"), SMALL)


@pytest.fixture
def run(tmp_path, items):
    """Return `run(system)`, which gives the folder in which a system's stages have run."""

    def run_system(system: str, *, conf: Path = CONF, **changes: Any) -> Path:
        shutil.copytree(items, tmp_path, dirs_exist_ok=True)
        for stage in STAGES:
            if stage not in SHARED:
                run_stage(stage, tmp_path, SMALL | {"system": system, **changes}, conf=conf)
        return tmp_path

    return run_system


def loss_curves(folder: Path) -> dict[str, list[float]]:
    """Return the losses of what was trained by epochs in folder: the sequence encoder, the quantizer, the T5."""
    curves = {"t5": [row["train_loss"] for row in read_json(folder / "data/train_t5/history.json")]}
    for stage, column in (("embed_collaborative", "loss"), ("train_quantizer", "total")):
        table = pl.read_csv(folder / f"metrics/plots/{stage}.tsv", separator="\t")
        curves[stage] = table[column].to_list() if column in table.columns else []
    return {stage: losses for stage, losses in curves.items() if len(losses) > 1}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_ranks_and_is_measured(run, system):
    folder = run(system)
    measured = read_json(folder / "metrics/evaluate.json")
    ranked = RANKED.get(system, BOTH)
    assert set(measured) == ranked | {"popularity", "final", "valid"}
    assert 0 < measured["final"]["hr@10"] <= 1
    if system in AT_ONCE:
        assert measured["final"]["ndcg@10"] > measured["popularity"]["ndcg@10"]
    curves = loss_curves(folder)
    assert bool(curves) == (system not in {*AT_ONCE, "popularity"})
    for losses in curves.values():
        assert losses[-1] < losses[0]
    files = [folder / "data" / stage / "rankings.parquet" for stage in ("rank_items", "rank_collaborative")]
    rankings = pl.concat(read_table(file, RANKINGS) for file in files)
    assert set(rankings["modality"]) == ranked - {"ensemble"}
    assert "<html" in (folder / "report/index.html").read_text()
    ITSELF.get(system, lambda _: None)(folder)
    if system == "bpr":
        with pytest.raises(DataError, match="expected others than bpr, found it: it knows the users of the run"):
            Recommender.load(folder)
        return
    assert_as_the_pipeline(Recommender.load(folder), folder)
    write_export(Recommender.load(folder), folder / "shop")
    assert_as_the_pipeline(Recommender.load(folder / "shop"), folder)
    assert_a_new_item_is_taken_up(folder)


def assert_a_new_item_is_taken_up(folder: Path) -> None:
    shop = load_shop(folder)
    title = json.dumps(shop.items["title"][0])
    (folder / "new.jsonl").write_text(f'{{"item": "NEW1", "title": {title}}}\n{{"item": "NEW2", "title": {title}}}')
    if not shop.words.modalities:
        with pytest.raises(DataError, match="expected one that items have IDs in, found none"):
            add_items(shop, folder / "new.jsonl", precomputed={})
        return
    found = add_items(shop, folder / "new.jsonl", precomputed={})
    write_added(folder / "added", shop, items=found.items, ids=found.ids, vectors=found.vectors)
    more = Recommender.load(folder, added=folder / "added")
    others = [key for key in more.shop.items["key"] if not key.startswith("NEW")]
    assert sorted(each.key for each in more.recommend(others, exclude_seen=True)) == ["NEW1", "NEW2"]
    for modality in more.shop.words.modalities:
        codes = more.shop.ids.filter(modality=modality)["codes"]
        assert codes.n_unique() == len(codes) == more.shop.items.height


def assert_everyone_is_ranked_for_without_collisions(folder: Path) -> None:
    measured = read_json(folder / "metrics/evaluate.json")
    assert measured["final"] == measured["ensemble"]
    assert all(set(measured[name]) == MEASURES for name in set(measured) - {"valid"})
    assert set(measured["valid"]) == set(measured) - {"valid"}
    collisions = read_json(folder / "metrics/resolve_collisions.json")
    assert {collisions[modality]["collision_rate_after"] for modality in ("text", "image")} == {0.0}
    filtered = read_json(folder / "metrics/filter_reviews.json")
    assert {"users", "items", "interactions", "sparsity", "average_length", "tie_rate"} <= set(filtered)
    users = read_table(folder / "data/filter_reviews/interactions.parquet", INTERACTIONS)["user"].n_unique()
    rankings = read_table(folder / "data/rank_items/rankings.parquet", RANKINGS)
    assert rankings.filter(split="test", modality="image")["user"].n_unique() == users


def assert_text_alone_has_ids(folder: Path) -> None:
    ids = read_table(folder / "data/resolve_collisions/ids.parquet", IDS)
    assert ids["modality"].unique().to_list() == ["text"]
    assert ids["codes"].list.len().unique().to_list() == [4]


def assert_an_item_has_one_id(folder: Path) -> None:
    ids = read_table(folder / "data/resolve_collisions/ids.parquet", IDS)
    assert ids["modality"].unique().to_list() == ["joint"]
    assert ids["item"].n_unique() == ids["codes"].n_unique() == ids.height


def assert_an_alignment_came_before(folder: Path) -> None:
    assert read_json(folder / "metrics/train_t5.json")["alignment_loss"] > 0


def assert_the_road_is_the_same_without_ids(folder: Path) -> None:
    measured = read_json(folder / "metrics/evaluate.json")
    (name,) = set(measured) - {"popularity", "final", "valid"} or {"popularity"}
    assert measured["final"] == measured[name]
    for table, schema in (("resolve_collisions/ids", IDS), ("rank_items/rankings", RANKINGS)):
        assert read_table(folder / f"data/{table}.parquet", schema).is_empty()
    assert list((folder / "metrics/plots/train_t5").rglob("*.tsv")), "git keeps no empty folder"
    assert "semantic IDs" not in (folder / "report/index.html").read_text()
    assert "Modalities none" in (folder / "metrics/report.md").read_text()


#: What makes a system itself, beyond what holds of all.
ITSELF = {
    "macrec": assert_everyone_is_ranked_for_without_collisions,
    "tiger": assert_text_alone_has_ids,
    "mgr_early": assert_an_item_has_one_id,
    "mgr_late_plus": assert_an_alignment_came_before,
    **dict.fromkeys(["popularity", "itemknn", "slist", "sasrec", "bert4rec"], assert_the_road_is_the_same_without_ids),
}


def test_a_ranking_without_ids_is_fused_with_the_others(run):
    measured = read_json(run("macrec", **{"collaborative.members": ["itemknn"]}) / "metrics/evaluate.json")
    assert set(measured) == {"text", "image", "itemknn", "ensemble", "popularity", "final", "valid"}
    assert measured["final"] == measured["ensemble"]


def test_the_example_of_the_docs_runs(tmp_path, run):
    page = (ROOT / "docs" / "systems.md").read_text()
    block = page[page.index("    # @package _global_") : page.index("`dvc exp run -S system=picture_answers`")]
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "system" / "picture_answers.yaml").write_text(textwrap.dedent(block))
    measured = read_json(run("picture_answers", conf=conf) / "metrics/evaluate.json")
    assert set(measured) == {"image", "popularity", "final", "valid"}
