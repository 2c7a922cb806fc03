import hashlib
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from ruamel.yaml import YAML

from tessera.artifacts import read_table
from tessera.errors import CheckpointError, DataError, TableError
from tessera.params import load_params
from tessera.schemas import RANKINGS
from tessera.using import recommender as using_recommender
from tessera.using.exporting import write_export
from tessera.using.parts import MANIFEST, RUN, TELLING, find_parts, locked_stages, require_measured
from tessera.using.recommender import Recommender
from tests.pipeline_runs import MEMBERS, SMALL, run_stage
from tests.recommended import assert_as_the_pipeline, assert_as_the_pipeline_one_at_a_time, histories


@pytest.fixture(scope="module")
def exported(recommender, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "shop"
    write_export(recommender, folder)
    return folder


def test_all_users_together_get_what_the_pipeline_ranked(recommender, run):
    assert_as_the_pipeline(recommender, run)


def test_each_user_alone_gets_what_the_pipeline_ranked(recommender, run):
    assert_as_the_pipeline_one_at_a_time(recommender, run)


def test_an_export_alone_gives_the_same(exported, run):
    assert_as_the_pipeline(Recommender.load(exported), run)


def test_what_was_learned_of_each_ranking_goes_along(copied, tmp_path):
    run_stage("evaluate", copied, SMALL | MEMBERS | {"decode.fusion": "learned"})
    learning = Recommender.load(copied)
    assert {*learning.weights} == {"text", "image", "itemknn", "sasrec", "popularity"}
    assert_as_the_pipeline(learning, copied)
    write_export(learning, tmp_path / "shop")
    assert_as_the_pipeline(Recommender.load(tmp_path / "shop"), copied)
    assert all(set(each.found_by) == {"popularity"} for each in learning.recommend([]))


def test_scores_by_tasks_across_modalities_go_along(copied, tmp_path):
    changes = SMALL | MEMBERS | {"decode.rescoring": "history"}
    for stage in ("rank_items", "evaluate"):
        run_stage(stage, copied, changes)
    rescoring = Recommender.load(copied)
    assert_as_the_pipeline(rescoring, copied)
    write_export(rescoring, tmp_path / "shop")
    alone = Recommender.load(tmp_path / "shop")
    assert_as_the_pipeline(alone, copied)
    keys = alone.shop.items["key"][:3].to_list()
    found = [set(each.found_by) for each in alone.recommend(keys)]
    assert any({"text_to_image", "image_to_text"} <= by for by in found)


def test_what_no_ranking_can_follow_gets_what_sold_best(copied):
    """itemknn alone: nothing calls for anything after an item that nobody took in training."""
    for stage in ("build_corpus", "rank_items", "rank_collaborative", "evaluate"):
        run_stage(stage, copied, SMALL | {"system": "itemknn"})
    file = copied / "data/filter_reviews/interactions.parquet"
    interactions = pl.read_parquet(file)
    cold = interactions["item"][0]
    interactions.with_columns(
        split=pl.when(pl.col("item") == cold).then(pl.lit("rest")).otherwise(pl.col("split"))
    ).write_parquet(file)
    alone = Recommender.load(copied)
    key = alone.shop.items["key"][cold]
    best = alone.recommend([])
    assert all(set(each.found_by) == {"popularity"} for each in best)
    assert alone.recommend([key], exclude_seen=False) == best


def test_seen_items_are_left_out_where_asked(recommender, run):
    some = histories(run, recommender.shop.items["key"], split="test")
    for history, found in zip(some, recommender.recommend_all(some, exclude_seen=True), strict=True):
        assert len(found) == 10
        assert not {each.key for each in found} & set(history)
    assert any(
        {each.key for each in found} & set(history)
        for history, found in zip(some, recommender.recommend_all(some), strict=True)
    )


def test_it_tells_which_rankings_hold_an_item_and_where(recommender, run):
    keys = recommender.shop.items["key"]
    found = recommender.recommend_all(histories(run, keys, split="test"))
    files = [run / f"data/{stage}/rankings.parquet" for stage in ("rank_items", "rank_collaborative")]
    single = pl.concat(read_table(file, RANKINGS) for file in files).filter(split="test")
    for user in (0, 7):
        of_user = single.filter(user=user)
        for each in found[user]:
            by = of_user.filter(item=keys.index_of(each.key))
            assert each.found_by == dict(zip(by["modality"], by["rank"], strict=True))
            assert each.found_by


def test_only_the_end_of_a_long_history_is_read_by_the_t5(recommender):
    keys = recommender.shop.items["key"].to_list()
    most = recommender.shop.params.corpus.max_history
    long, short = keys[: most + 9], keys[9 : most + 9]
    assert recommender.recommend(long, exclude_seen=False) == recommender.recommend(short, exclude_seen=False)
    left_out = {each.key for each in recommender.recommend(long, exclude_seen=True)}
    assert not left_out & set(long), "all that was had counts as seen, not the end alone"


def test_an_item_that_comes_twice_counts_once(recommender):
    one, two, three = recommender.shop.items["key"][:3].to_list()
    assert recommender.recommend([one, two, one, three]) == recommender.recommend([one, two, three])


def test_an_empty_history_gets_what_sold_best_and_others_stay_as_they_are(recommender, run):
    keys = recommender.shop.items["key"].to_list()
    alone, empty = recommender.recommend(keys[:3]), recommender.recommend([])
    assert recommender.recommend_all([[], keys[:3]])[0] == empty
    assert [each.key for each in recommender.recommend_all([[], keys[:3]])[1]] == [each.key for each in alone]
    assert all(set(each.found_by) == {"popularity"} for each in empty)
    interactions = pl.read_parquet(run / "data/filter_reviews/interactions.parquet").filter(split="train")
    assert empty[0].score == interactions["item"].value_counts()["count"].max()
    assert recommender.recommend_all([]) == []


def test_an_unknown_key_may_be_one_that_the_filter_left_out(recommender):
    count = recommender.shop.items.height
    with pytest.raises(DataError, match=rf"filter_reviews kept {count} items, and others have no ID$"):
        recommender.recommend(["zzz"])


def test_unknown_keys_are_told_with_what_is_near(recommender):
    key = recommender.shop.items["key"][0]
    with pytest.raises(DataError, match=f"{key[:-1]}: expected the key of an item, found none; near it are\n  {key}  "):
        recommender.recommend([key, key[:-1]])
    assert recommender.recommend([key, "nothing"], skip_unknown=True) == recommender.recommend([key])


def test_a_text_is_no_history(recommender):
    for wrong in ([17], None, 3):
        with pytest.raises(DataError, match="expected a list of keys, each of them a text, found"):
            recommender.recommend(wrong)
    with pytest.raises(DataError, match=r"k: expected a number from 1 to decode\.beams = 10, found 3"):
        recommender.recommend([], k="3")
    with pytest.raises(DataError, match="expected a list of keys, found the text 'B1'"):
        recommender.recommend("B1")


@pytest.mark.parametrize("k", [0, 11])
def test_k_is_at_most_the_beams(recommender, k):
    with pytest.raises(DataError, match=f"expected a number from 1 to decode.beams = 10, found {k}"):
        recommender.recommend([], k=k)


def test_three_lines_serve_an_export_in_a_process_of_their_own(exported, recommender):
    key = recommender.shop.items["key"][0]
    code = (
        "import sys, tessera; assert not {'torch', 'transformers', 'polars'} & set(sys.modules)\n"
        "from tessera import Recommender\n"
        f"shop = Recommender.load({str(exported)!r})\n"
        f"print([each.key for each in shop.recommend([{key!r}])])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([each.key for each in recommender.recommend([key])])


def test_an_export_holds_no_users(exported, run):
    names = [str(file.relative_to(exported)) for file in exported.rglob("*") if file.is_file()]
    assert not [name for name in names if "user" in name or "interaction" in name]
    users = pl.read_parquet(run / "data/filter_reviews/users.parquet")["key"]
    content = b"".join(file.read_bytes() for file in exported.rglob("*") if file.is_file())
    assert not [user for user in users if user.encode() in content]
    assert "ndcg@10" in (exported / "README.md").read_text()


def test_an_export_replaces_an_earlier_one_and_nothing_else(recommender, tmp_path):
    write_export(recommender, tmp_path / "shop")
    (tmp_path / "shop" / "added").mkdir()
    (tmp_path / "shop" / "added" / "mine").write_text("")
    with pytest.raises(CheckpointError, match=r"an earlier export with nothing else in it, .* found added/mine"):
        write_export(recommender, tmp_path / "shop")
    (tmp_path / "shop" / "added" / "mine").rename(tmp_path / "mine")
    (tmp_path / "shop" / "README.md").write_text("another card")
    write_export(recommender, tmp_path / "shop")
    assert (tmp_path / "shop" / "README.md").read_text() != "another card"
    (tmp_path / "mine").unlink()
    with pytest.raises(CheckpointError, match="expected a new folder or an earlier export, found a folder that is"):
        write_export(recommender, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_an_export_behind_a_link_is_replaced(recommender, tmp_path):
    write_export(recommender, tmp_path / "shop")
    (tmp_path / "link").symlink_to("shop", target_is_directory=True)
    (tmp_path / "shop" / "README.md").write_text("another card")
    write_export(recommender, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "shop" / "README.md").read_text() != "another card"


def test_outputs_of_a_run_without_a_member_are_not_taken_for_its_own(copied):
    for member, empty in (("slist", "strengths"), ("als", "factors")):
        params = copied / "params.yaml"
        document = YAML(typ="safe").load(params.read_text())
        document["collaborative"]["members"] = [member]
        with params.open("w") as file:
            YAML().dump(document, file)
        with pytest.raises(TableError, match=rf"{empty}.parquet: expected what was learned .* found those of 0"):
            Recommender.load(copied)


def test_how_many_may_be_any_whole_number(recommender):
    key = recommender.shop.items["key"][0]
    assert recommender.recommend([key], k=np.int64(3)) == recommender.recommend([key])[:3]
    assert recommender.recommend_all(each for each in [[key]])[0] == recommender.recommend([key])


def test_an_export_that_fails_leaves_what_was_there(recommender, tmp_path, monkeypatch):
    write_export(recommender, tmp_path / "shop")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.setattr("tessera.using.exporting.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_export(recommender, tmp_path / "shop")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("part", "stage"), [("data/train_t5/checkpoint", "train_t5"), ("data/train_quantizer/quantizer", "train_quantizer")]
)
def test_a_stage_that_has_not_run_is_named(copied, tmp_path, part, stage):
    (copied / part).rename(tmp_path / "away")
    with pytest.raises(TableError, match=f"{part}: expected the output of the stage {stage}, found nothing"):
        write_export(Recommender.load(copied), tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ids.parquet", None, r"ids.parquet: expected \d+ bytes, as export.json says, found nothing"),
        ("checkpoint/model.safetensors", "", r"model.safetensors: expected \d+ bytes, as export.json says, found 0"),
        (MANIFEST, '{"format": 3}', "expected an exported folder of format 2, found format 3"),
        (MANIFEST, "[]", "expected what tells of an exported folder, found none to read"),
        (MANIFEST, None, "expected an exported folder .* or a repository"),
    ],
)
def test_an_export_that_was_tampered_with_is_refused_by_name(recommender, tmp_path, name, change, message):
    folder = tmp_path / "shop"
    write_export(recommender, folder)
    (folder / "params.yaml").rename(tmp_path / "params.yaml") if change is None and name == MANIFEST else None
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(change)
    with pytest.raises(CheckpointError, match=message):
        Recommender.load(folder)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: expected an exported folder .*, found nothing"):
        Recommender.load(tmp_path / "nowhere")


def test_a_checkpoint_of_other_ids_is_refused(copied):
    file = copied / "data/resolve_collisions/ids.parquet"
    ids = pl.read_parquet(file)
    ids.with_columns(item=ids["item"].max() - pl.col("item")).write_parquet(file)
    with pytest.raises(CheckpointError, match="expected a model of the semantic IDs"):
        Recommender.load(copied)


def test_the_manifest_names_every_file(exported):
    files = json.loads((exported / MANIFEST).read_text())["files"]
    found = {str(file.relative_to(exported)) for file in exported.rglob("*") if file.is_file()}
    assert set(files) == found - {MANIFEST}


LOCK = """schema: '2.0'
stages:
  filter_reviews:
    cmd: python
    outs:
    - {path: data/filter_reviews/items.parquet, hash: md5, md5: NEW, size: 1}
  resolve_collisions:
    cmd: python
    deps:
    - {path: stages/resolve_collisions.py, hash: md5, md5: code, size: 1}
    - {path: data/filter_reviews/items.parquet, hash: md5, md5: old, size: 1}
"""


def test_what_a_stopped_run_left_is_not_mixed_with_the_run_before(copied):
    (copied / "dvc.lock").write_text(LOCK.replace("NEW", "old"))
    Recommender.load(copied)
    (copied / "dvc.lock").write_text(LOCK.replace("md5: NEW, ", "").replace("md5: old, ", ""))
    Recommender.load(copied)
    (copied / "dvc.lock").write_text(LOCK)
    told = r"found data/filter_reviews/items\.parquet written anew since the stage resolve_collisions has read it"
    with pytest.raises(CheckpointError, match=told):
        Recommender.load(copied)
    with pytest.raises(CheckpointError, match=told):
        find_parts(copied)  # which is all that `tessera ids` asks for


@pytest.mark.parametrize(
    ("locked", "told"),
    [
        ("corpus.max_history: {known}", None),
        ("corpus: {{max_history: {known}}}", None),
        ("corpus.of_old: 1", None),
        ("corpus.max_history: 999", "expected corpus.max_history = 999, with which .* resolve_collisions .* {known};"),
        ("corpus: {{max_history: 999}}", "expected corpus.max_history = 999, with which .*, found {known};"),
        ("modalities: [text]", r"expected modalities = \['text'\], with which"),
    ],
)
def test_parameters_that_the_stages_did_not_have_are_not_mixed_with_what_they_wrote(locked, told, copied):
    known = load_params(copied / "params.yaml").corpus.max_history
    stages = LOCK.replace("NEW", "old")
    (copied / "dvc.lock").write_text(f"{stages}    params: {{params.yaml: {{{locked.format(known=known)}}}}}\n")
    if told is None:
        find_parts(copied)
        (copied / "dvc.lock").write_text(
            (copied / "dvc.lock").read_text().replace("resolve_collisions:", "rank_items:")
        )
        find_parts(copied)
    else:
        with pytest.raises(CheckpointError, match=f"params.yaml: {told.format(known=known)}"):
            find_parts(copied)


def test_a_model_that_was_not_measured_as_it_is_now_is_not_exported(copied, tmp_path):
    """It can be used all the same, since nothing that it is made of has changed."""
    stages = LOCK.replace("NEW", "old").replace("resolve_collisions:", "evaluate:")
    (copied / "dvc.lock").write_text(f"{stages}    params: {{params.yaml: {{decode.fusion: best}}}}\n")
    known = Recommender.load(copied)
    with pytest.raises(CheckpointError, match=r"expected decode.fusion = 'best', with which the stage evaluate"):
        write_export(known, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_measures_of_another_run_are_not_exported(copied, tmp_path):
    """All that is looked at is as dvc.lock says, or nothing is, as of a run by hand."""
    known, stages = Recommender.load(copied), "stages:\n  evaluate:\n    outs:\n"
    for name in TELLING:
        digest = hashlib.md5((copied / RUN[name]).read_bytes(), usedforsecurity=False).hexdigest()
        stages += f"    - {{path: {RUN[name]}, hash: md5, md5: {digest}, size: 1}}\n"
    (copied / "dvc.lock").write_text(stages)
    write_export(known, tmp_path / "shop")
    measures = copied / RUN["metrics"]
    measures.write_text(measures.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"metrics/evaluate.json, .* of one run, found some that dvc.lock"):
        write_export(known, tmp_path / "other")
    (copied / "dvc.lock").write_text(stages.replace("md5: ", "md5: 0"))
    write_export(known, tmp_path / "other")


@pytest.mark.parametrize(
    ("stage", "key", "value", "is_refused"),
    [
        ("download_reviews", "dataset.name", "another", True),
        ("cluster_items", "pseudo.clusters", 999, True),
        ("rank_items", "decode.beams", 999, True),
        ("rank_items", "decode.batch_size", 999, False),
        ("evaluate", "eval.resamples", 999, False),
        ("write_report", "report.examples", 999, False),
    ],
)
def test_parameters_that_change_a_measure_are_those_it_was_made_with(copied, stage, key, value, is_refused):
    (copied / "dvc.lock").write_text(f"stages:\n  {stage}:\n    params: {{params.yaml: {{{key}: {value}}}}}\n")
    if is_refused:
        with pytest.raises(
            CheckpointError, match=f"expected {key} = .*{value}.*, with which the stage {stage} was run"
        ):
            require_measured(copied, locked_stages(copied))
    else:
        require_measured(copied, locked_stages(copied))


def test_a_report_that_was_not_written_yet_makes_no_model_another_run(copied):
    (copied / "dvc.lock").write_text(LOCK.replace("resolve_collisions:", "write_report:"))
    assert find_parts(copied)["ids"].is_file()
    require_measured(copied, locked_stages(copied))
    (copied / "dvc.lock").write_text(LOCK.replace("resolve_collisions:", "evaluate:"))
    with pytest.raises(CheckpointError, match="written anew since the stage evaluate has read it"):
        require_measured(copied, locked_stages(copied))


@pytest.mark.parametrize("text", ["", "schema: '2.0'\n"])
def test_a_lock_that_tells_of_no_stage(copied, text):
    (copied / "dvc.lock").write_text(text)
    assert find_parts(copied)["params"] == copied / "params.yaml"


def test_a_lock_that_cannot_be_read_is_named(copied):
    (copied / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n")
    with pytest.raises(CheckpointError, match=r"dvc\.lock: expected YAML, found none that can be read"):
        find_parts(copied)


def test_many_histories_are_ranked_a_part_at_a_time(recommender, monkeypatch):
    keys = recommender.shop.items["key"].to_list()
    several = [keys[start : start + 3] for start in range(7)]
    together = recommender.table(several, k=3)
    monkeypatch.setattr(using_recommender, "USERS_AT_ONCE", 3)
    parts = list(recommender.tables(several, k=3))
    assert [part["user"].unique().sort().to_list() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert_frame_equal(pl.concat(parts), together, abs_tol=1e-5)
    assert recommender.table([]).height == 0
