import json

import numpy as np
import polars as pl
import pytest

from tessera.codes.collisions import Paths, resolve
from tessera.errors import CheckpointError, DataError, ParamsError, SourceError
from tessera.using.additions import add_items
from tessera.using.exporting import write_export
from tessera.using.recommender import Recommender
from tessera.using.shop import Shop, load_shop, write_added
from tests.recommended import assert_as_the_pipeline


def added_to(model, file, folder, **options):
    shop = load_shop(model, added=folder if folder.exists() else None)
    found = add_items(shop, file, precomputed=options)
    write_added(folder, shop, items=found.items, ids=found.ids, vectors=found.vectors)
    return found


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_new_items_have_ids_of_their_own_and_nothing_of_the_run_changes(run, new_items, tmp_path):
    before = contents(run)
    found = added_to(run, new_items, tmp_path / "added")
    assert contents(run) == before
    assert found.items["key"].to_list() == ["NEW1", "NEW2", "NEW3"]
    assert len(found.known) == 1
    shop = load_shop(run, added=tmp_path / "added")
    old = load_shop(run)
    assert shop.ids.head(old.ids.height).equals(old.ids)
    for modality in ("text", "image"):
        codes = shop.ids.filter(modality=modality)["codes"]
        assert codes.n_unique() == len(codes) == shop.items.height
    # The title of NEW3 tells nothing that is known, NEW2 has no picture: each borrows from who is most like it.
    text, image = found.vectors["text"], found.vectors["image"]
    assert text["present"].to_list() == [True, True, False]
    assert image["present"].to_list() == [True, False, True]
    first = found.ids.filter(modality="image")["first_codes"].to_list()
    assert first[1] == first[0], "NEW2 says what NEW1 says"


def test_the_vectors_of_other_items_are_not_read_for_one_that_has_all_modalities(run, new_items, monkeypatch):
    expected = add_items(load_shop(run), new_items, precomputed={}).ids
    new_items.write_text(new_items.read_text().splitlines()[0])
    monkeypatch.setattr(Shop, "vectors", lambda *_: pytest.fail("they were read"))
    found = add_items(load_shop(run), new_items, precomputed={}).ids
    first = expected["item"].min()
    assert found.sort("modality").equals(expected.filter(item=first).sort("modality"))


def test_a_new_item_lies_where_the_old_one_does_that_it_is_like(run, new_items, tmp_path):
    found = added_to(run, new_items, tmp_path / "added")
    shop = load_shop(run)
    for modality, tolerance in (("text", 1e-4), ("image", 0.05)):  # a picture is compressed once more
        new = found.vectors[modality]["vector"][0].to_numpy()
        np.testing.assert_allclose(new, shop.vectors(modality)["vector"][0].to_numpy(), atol=tolerance)
    old = shop.ids.filter(modality="text", item=0)["first_codes"][0].to_list()
    assert found.ids.filter(modality="text")["first_codes"][0].to_list() == old


def test_new_items_can_be_read_and_recommended_at_once(run, new_items, tmp_path):
    added_to(run, new_items, tmp_path / "added")
    recommender = Recommender.load(run, added=tmp_path / "added")
    found = recommender.recommend(["NEW1", "NEW2"])
    assert len(found) == 10
    assert {name for each in found for name in each.found_by} == {"text", "image"}, "no other ranking knows them"
    others = [key for key in recommender.shop.items["key"] if key not in ("NEW1", "NEW3")]
    left = recommender.recommend(others, exclude_seen=True)
    assert sorted(each.key for each in left) == ["NEW1", "NEW3"]
    assert all(set(each.found_by) == {"text", "image"} for each in left)


def test_adding_again_keeps_what_was_added(run, new_items, tmp_path):
    added_to(run, new_items, tmp_path / "added")
    before = load_shop(run, added=tmp_path / "added")
    more = tmp_path / "more.csv"
    more.write_text("item,title\nMORE,Lamp for the Kitchen\nNEW1,again\n")
    found = added_to(run, more, tmp_path / "added")
    after = load_shop(run, added=tmp_path / "added")
    assert found.known == ["NEW1"]
    assert (
        after.ids.filter(pl.col("item") < before.items.height)
        .sort("modality", "item")
        .equals(before.ids.sort("modality", "item"))
    )
    assert after.items["key"].to_list() == [*before.items["key"], "MORE"]
    assert after.vectors("text")["item"].to_list() == list(range(after.items.height))
    assert Recommender.load(run, added=tmp_path / "added").recommend(["MORE"])


def test_an_export_takes_added_items_along_and_takes_more(run, new_items, tmp_path):
    added_to(run, new_items, tmp_path / "added")
    recommender = Recommender.load(run, added=tmp_path / "added")
    write_export(recommender, tmp_path / "shop")
    exported = Recommender.load(tmp_path / "shop")
    history = ["NEW1", recommender.shop.items["key"][3]]
    assert exported.recommend(history) == recommender.recommend(history)
    (tmp_path / "more.jsonl").write_text(json.dumps({"item": "MORE", "title": "Lamp for the Kitchen"}))
    added_to(tmp_path / "shop", tmp_path / "more.jsonl", tmp_path / "more")
    assert Recommender.load(tmp_path / "shop", added=tmp_path / "more").recommend(["MORE", "NEW1"])


def test_added_items_of_another_model_are_refused(run, new_items, tmp_path, copied):
    added_to(run, new_items, tmp_path / "added")
    file = copied / "data/resolve_collisions/ids.parquet"
    ids = pl.read_parquet(file)
    ids.with_columns(codes=ids["codes"].reverse()).write_parquet(file)
    with pytest.raises(CheckpointError, match="expected items that were added to those of"):
        load_shop(copied, added=tmp_path / "added")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"item": "A", "title": ""}], DataError, "A: expected something to embed it by"),
        ([{"item": "A", "title": "unheard"}, {"item": "B", "title": "unheard"}], DataError, "nor of 1 others"),
        ([{"item": "A"}], SourceError, "title is missing"),
    ],
)
def test_items_that_cannot_be_placed_are_named(run, tmp_path, rows, error, message):
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(error, match=message):
        add_items(load_shop(run), tmp_path / "new.jsonl", precomputed={})


def test_items_that_are_all_there_are_an_error(run, tmp_path):
    key = load_shop(run).items["key"][0]
    (tmp_path / "new.jsonl").write_text(json.dumps({"item": key, "title": "x"}))
    with pytest.raises(DataError, match="expected items that are not there yet, found 1 that are"):
        add_items(load_shop(run), tmp_path / "new.jsonl", precomputed={})


def test_precomputed_vectors_of_new_items_come_from_a_file(run, new_items, tmp_path):
    shop = load_shop(run)
    text = shop.params.text.model_copy(update={"encoder": "precomputed", "path": "x"})
    shop = shop._replace(params=shop.params.model_copy(update={"text": text}))
    with pytest.raises(ParamsError, match=r"text\.encoder is precomputed: expected --vectors text=FILE, found none"):
        add_items(shop, new_items, precomputed={})
    width = shop.vectors("text")["vector"].dtype.size
    vectors = shop.vectors("text")["vector"][[4, 7]].to_list()
    table = pl.DataFrame({"item": ["NEW1", "NEW2"], "vector": vectors})
    table.write_parquet(tmp_path / "text.parquet")
    found = add_items(shop, new_items, precomputed={"text": tmp_path / "text.parquet"})
    assert found.vectors["text"]["present"].to_list() == [True, True, False]
    old = shop.ids.filter(modality="text", item=4)
    assert found.ids.filter(modality="text")["first_codes"][0].to_list() == old["first_codes"][0].to_list()
    pl.DataFrame({"item": ["NEW1", "NEW2"], "vector": [[1.0] * (width + 1)] * 2}).write_parquet(
        tmp_path / "text.parquet"
    )
    with pytest.raises(DataError, match=f"expected vectors of width {width}, found {width + 1}"):
        add_items(shop, new_items, precomputed={"text": tmp_path / "text.parquet"})


def test_the_old_users_rankings_are_as_before_where_nothing_is_added(run, recommender):
    assert_as_the_pipeline(recommender, run)


@pytest.mark.parametrize("rule", ["reassign", "uniform", "extra_code"])
def test_fixed_items_keep_their_ids_whatever_the_others_want(rule):
    generator = np.random.default_rng(0)
    codebooks = generator.normal(size=(3, 4, 2)).astype(np.float32)
    start = Paths(generator.integers(0, 4, (12, 3)), generator.normal(size=(12, 2)).astype(np.float32), codebooks)
    names = [str(item) for item in range(20)]
    old = resolve(start, rule=rule, names=names)
    more = Paths(
        np.concatenate([old[:, :3], start.codes[:8]]),
        np.concatenate([np.zeros((12, 2), np.float32), start.residuals[:8]]),
        codebooks,
    )
    present = np.ones(20, np.bool_)
    present[12] = False
    found = resolve(more, rule=rule, names=names, present=present, fixed=12)
    np.testing.assert_array_equal(found[:12], old)
    assert len(np.unique(found, axis=0)) == 20
    assert (found[12:, :1] == start.codes[:8, :1]).all()
