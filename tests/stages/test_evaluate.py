import json
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stages import evaluate as evaluate_stage
from stages.evaluate import main
from tessera.errors import DataError
from tessera.schemas import INTERACTIONS, PER_USER, RANKINGS

USERS, ITEMS, LENGTH = 40, 30, 12
MEASURES = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}


class Written(NamedTuple):
    per_user: pl.DataFrame
    ensemble: pl.DataFrame
    weights: pl.DataFrame
    metrics: dict
    slices: list
    curve: list
    intervals: dict


def shop(seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        items = generator.permutation(ITEMS)[: generator.integers(3, 9)]
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        rows += [
            (user, item, place, place, split) for place, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def ranked(modalities=("text", "image"), *, length=LENGTH, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for split in ("valid", "test"):
        for modality in modalities:
            for user in range(USERS):
                items = generator.permutation(ITEMS)[:length]
                scores = -np.sort(generator.gamma(2, size=length))
                rows += [(split, user, modality, place + 1, items[place], scores[place]) for place in range(length)]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


@pytest.fixture
def evaluate(tmp_path, params_file):
    def call(*rankings, interactions=None, **changes):
        paths = []
        for number, table in enumerate(rankings or [ranked()]):
            paths.append(tmp_path / f"rankings{number}.parquet")
            table.write_parquet(paths[-1])
        (shop() if interactions is None else interactions).write_parquet(tmp_path / "interactions.parquet")
        out = tmp_path / "out"
        main(
            rankings=paths,
            interactions=tmp_path / "interactions.parquet",
            per_user=out / "per_user.parquet",
            ensemble=out / "ensemble.parquet",
            weights=out / "weights.parquet",
            metrics=out / "evaluate.json",
            slices=out / "slices.json",
            curve=out / "curve.json",
            intervals=out / "intervals.json",
            params_file=params_file({name.replace("__", "."): value for name, value in changes.items()}),
        )
        tables = [pl.read_parquet(out / name) for name in ("per_user.parquet", "ensemble.parquet", "weights.parquet")]
        names = ("evaluate.json", "slices.json", "curve.json", "intervals.json")
        return Written(*tables, *(json.loads((out / name).read_text()) for name in names))

    return call


def test_what_is_written(evaluate):
    written = evaluate()
    names = ["text", "image", "ensemble", "popularity", "final"]
    assert list(written.metrics) == [*names, "valid"]
    assert list(written.metrics["valid"]) == names
    assert all(written.metrics[name].keys() == MEASURES for name in names)
    assert written.metrics["final"] == written.metrics["ensemble"]
    assert written.metrics["valid"] != {name: written.metrics[name] for name in names}
    assert written.per_user.schema == pl.Schema(PER_USER)
    assert written.per_user.height == 2 * 4 * USERS
    assert written.ensemble.schema == pl.Schema(RANKINGS)
    assert set(written.ensemble["modality"]) == {"ensemble"}
    assert {record["ranking"] for record in written.curve} == set(names) - {"final"}
    assert len(written.curve) == 4 * LENGTH
    assert {record["split"] for record in written.slices} == {"valid", "test"}
    assert written.intervals["users"] == {"valid": USERS, "test": USERS}
    assert list(written.intervals["intervals"]) == list(written.metrics)


def test_cold_and_warm_targets_are_measured_apart_where_there_are_both(evaluate):
    """Item 0 leaves training: who is to find it has a cold target. Both together are all users."""
    shop_now = shop()
    is_cold = (pl.col("item") == 0) & (pl.col("split") == "train")
    shop_now = shop_now.with_columns(split=pl.when(is_cold).then(pl.lit("rest")).otherwise("split"))
    written = evaluate(interactions=shop_now)
    assert list(written.metrics)[-3:] == ["valid", "cold", "warm"]
    ranks = written.per_user.filter(split="test", ranking="ensemble")
    cold = ranks.filter(target_frequency=0)
    assert 0 < cold.height < USERS
    for name, part in (("cold", cold), ("warm", ranks.filter(pl.col("target_frequency") > 0))):
        assert written.metrics[name]["final"] == written.metrics[name]["ensemble"]
        assert written.metrics[name]["final"]["hr@10"] == (part["rank"] <= 10).sum() / part.height
    assert list(written.intervals["intervals"])[-1] == "valid"


def test_measures_follow_from_the_written_ranks(evaluate):
    written = evaluate()
    for ranking in ("text", "image", "ensemble", "popularity"):
        ranks = written.per_user.filter(split="test", ranking=ranking)["rank"]
        assert written.metrics[ranking]["hr@5"] == (ranks <= 5).sum() / USERS
        assert written.metrics[ranking]["mrr"] == pytest.approx((1 / ranks).sum() / USERS)


def test_the_written_ensemble_is_what_was_measured(evaluate):
    written = evaluate()
    targets = shop().filter(split="test").select("user", "item")
    found = written.ensemble.filter(split="test").join(targets, on=["user", "item"])
    assert written.metrics["ensemble"]["hr@10"] == (found["rank"] <= 10).sum() / USERS


def test_one_modality_has_no_ensemble(evaluate):
    written = evaluate(ranked(("text",)))
    assert list(written.metrics) == ["text", "popularity", "final", "valid"]
    assert written.metrics["final"] == written.metrics["text"]
    assert written.metrics["valid"]["final"] == written.metrics["valid"]["text"]
    assert set(written.per_user["ranking"]) == {"text", "popularity"}
    assert written.ensemble.height == 2 * USERS * LENGTH


def test_rankings_of_several_files_are_as_those_of_one(evaluate):
    parts = [ranked().filter(modality=modality) for modality in ("text", "image")]
    whole, apart = evaluate(pl.concat(parts)), evaluate(*parts)
    assert whole.metrics == apart.metrics
    assert whole.ensemble.equals(apart.ensemble)
    assert evaluate(parts[0], parts[1].clear()).metrics == evaluate(parts[0]).metrics


@pytest.mark.parametrize("changes", [{}, {"decode__fusion": "learned", "decode__exclude_seen": True}])
def test_users_in_parts_are_as_all_at_once(evaluate, monkeypatch, changes):
    tables = (ranked(("text", "image"), seed=1), ranked(("itemknn",), seed=2).filter(pl.col("user") > 7))
    whole = evaluate(*tables, **changes)
    monkeypatch.setattr(evaluate_stage, "USERS_AT_ONCE", 7)
    for part, same in zip(evaluate(*tables, **changes), whole, strict=True):
        if isinstance(same, pl.DataFrame):
            assert_frame_equal(part, same)
        else:
            assert part == same


def test_without_rankings_popularity_is_final(evaluate):
    written = evaluate(ranked().clear(), decode__beams=7)
    assert list(written.metrics) == ["popularity", "final", "valid"]
    assert written.metrics["final"] == written.metrics["popularity"]
    assert set(written.ensemble["modality"]) == {"popularity"}
    assert written.ensemble["rank"].to_numpy().max() == len(written.curve) == 7


def test_same_parameters_same_numbers_and_another_seed_moves_the_intervals_alone(evaluate):
    first, again, other = evaluate(), evaluate(), evaluate(seed=1)
    assert first.intervals == again.intervals
    assert first.intervals["intervals"] != other.intervals["intervals"]
    assert (first.metrics, first.slices, first.curve) == (other.metrics, other.slices, other.curve)


def test_final_has_the_ensembles_interval(evaluate):
    intervals = evaluate().intervals["intervals"]
    assert intervals["final"] == intervals["ensemble"]
    assert all(low <= high for low, high in intervals["final"].values())


def test_fusion_rule(evaluate):
    rules = [evaluate(decode__fusion=rule) for rule in ("mean", "mean_bonus", "best", "learned")]
    for one, other in pairwise(rules):
        assert not one.ensemble.equals(other.ensemble)
        assert one.metrics["text"] == other.metrics["text"]
    assert [written.weights.height for written in rules] == [0, 0, 0, 2]


def knowing(table, *, split, modality):
    """Rankings whose lists of a split and modality begin with the target."""
    targets = dict(shop().filter(split=split).select("user", "item").rows())
    rows = []
    for of_split, user, of_modality, place, item, score in table.iter_rows():
        target = targets.get(user)
        listed = item
        if (of_split, of_modality) == (split, modality) and (place == 1 or item == target):
            first = table.filter(split=split, modality=modality, user=user, rank=1)["item"][0]
            listed = target if place == 1 else first
        rows.append((of_split, user, of_modality, place, listed, score))
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


def test_weights_are_learned_on_the_validation_targets_alone(evaluate, caplog):
    caplog.set_level("INFO")
    lists = knowing(ranked(), split="valid", modality="text")
    written = evaluate(knowing(lists, split="test", modality="image"), decode__fusion="learned")
    assert written.weights["modality"].to_list() == ["image", "text"]
    image, text = written.weights["score"]
    assert text > 1 > image
    assert any(message.startswith("text weighs ") for message in caplog.messages)
    assert written.metrics["valid"]["ensemble"]["hr@1"] > 0.9
    assert written.metrics["ensemble"]["hr@1"] < 0.5 < written.metrics["image"]["hr@1"]


def test_one_ranking_needs_no_weights(evaluate):
    written = evaluate(ranked(("text",)), decode__fusion="learned")
    assert written.weights.rows() == [("text", 1.0, 0.0)]
    assert written.ensemble.select("user", "rank", "item").equals(
        evaluate(ranked(("text",))).ensemble.select("user", "rank", "item")
    )


def test_exclude_seen_moves_popularity_alone(evaluate):
    kept, excluded = evaluate(), evaluate(decode__exclude_seen=True)
    assert kept.metrics["popularity"]["mrr"] < excluded.metrics["popularity"]["mrr"]
    assert kept.metrics["ensemble"] == excluded.metrics["ensemble"]


def test_resamples_and_confidence_are_written_and_used(evaluate):
    usual, changed = evaluate(), evaluate(eval__resamples=50, eval__confidence=0.5)
    assert (changed.intervals["resamples"], changed.intervals["confidence"]) == (50, 0.5)
    low, high = usual.intervals["intervals"]["text"]["hr@10"]
    narrow_low, narrow_high = changed.intervals["intervals"]["text"]["hr@10"]
    assert low < narrow_low < narrow_high < high


@pytest.mark.parametrize(
    ("parameter", "kind"), [("frequency_bounds", "target_frequency"), ("history_bounds", "history_length")]
)
def test_bounds(evaluate, parameter, kind):
    written = evaluate(**{f"eval__{parameter}": [3]})
    assert {record["slice"] for record in written.slices if record["kind"] == kind} == {"0-2", "3+"}
    assert "0-2" not in {record["slice"] for record in written.slices if record["kind"] != kind}


def test_short_lists_are_told(evaluate, caplog):
    evaluate(ranked(length=4))
    assert f"image: {USERS} of {USERS} test rankings hold fewer than 10 items; hr@10 is cut there" in caplog.messages


def test_nothing_is_told_where_nothing_is_dubious(evaluate, caplog):
    evaluate()
    assert caplog.messages == []


def test_users_without_rankings_are_told_and_count_as_misses(evaluate, caplog):
    half = ranked().filter(pl.col("user") < USERS // 2)
    written = evaluate(half)
    assert f"text: {USERS // 2} of {USERS} test users have no ranking and count as misses" in caplog.messages
    assert written.per_user.filter(split="test", ranking="text").height == USERS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": ITEMS}, f"expected items of the catalogue, 0 to {ITEMS - 1}, found {ITEMS}"),
        ({"user": USERS}, "expected users with a target, found 1 without"),
        ({"modality": "valid"}, "expected modalities named otherwise than ensemble, popularity, final, valid"),
        ({}, "found item .* twice"),
    ],
)
def test_rankings_that_do_not_fit_are_refused_and_nothing_is_written(evaluate, tmp_path, change, message):
    stray = (
        ranked().head(1).with_columns(pl.lit(value).cast(RANKINGS[name]).alias(name) for name, value in change.items())
    )
    with pytest.raises(DataError, match=message):
        evaluate(pl.concat([ranked(), stray]))
    assert not list((tmp_path / "out").rglob("*"))
