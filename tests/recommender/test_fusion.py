import itertools
import math
from typing import get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tessera.errors import DataError
from tessera.recommender import fusion
from tessera.recommender.fusion import Rule, Weight, fuse, weights_in, weights_table
from tessera.schemas import RANKINGS

RULES = get_args(Rule)


def rankings(lists):
    """Build rankings from {(split, user, modality): {item: score}}."""
    rows = []
    for (split, user, modality), scores in lists.items():
        order = sorted(scores.items(), key=lambda entry: -entry[1])
        rows += [(split, user, modality, place, item, score) for place, (item, score) in enumerate(order, start=1)]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


def scores_of(fused, *, split="test", user=0):
    chosen = fused.filter(split=split, user=user).sort("rank")
    return list(zip(chosen["item"], chosen["score"], strict=True))


#: Exact in binary, as scores are.
WEIGHTS = {"text": Weight(2.0, 0.5), "image": Weight(0.5, -0.25), "sound": Weight(0.0, 1.0)}


def fuse_slowly(table, *, rule, cut):
    """The twin: one user, one item and one list at a time."""
    rows = []
    for split, user in sorted(set(table.select("split", "user").rows())):
        mine = table.filter(split=split, user=user)
        names = mine["modality"].unique().to_list()
        by_name = {name: dict(mine.filter(modality=name).select("item", "score").rows()) for name in names}
        lists = list(by_name.values())
        lowest = min(min(each.values()) for each in lists)
        scores = {}
        for item in set().union(*lists):
            held = [each[item] for each in lists if item in each]
            scores[item] = {
                "mean": sum(each.get(item, min(each.values()) if len(each) >= cut else lowest) for each in lists)
                / len(lists),
                "mean_bonus": sum(held) / len(held) + len(held) - 1,
                "best": max(held),
                "learned": sum(
                    WEIGHTS[name].score * (each[item] - min(each.values())) + WEIGHTS[name].held
                    for name, each in by_name.items()
                    if item in each
                ),
            }[rule]
        if rule == "learned":
            whole = math.log(sum(map(math.exp, scores.values())))
            scores = {item: score - whole for item, score in scores.items()}
        order = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
        kept = order[: max(map(len, lists))]
        rows += [(split, user, "ensemble", place, item, score) for place, (item, score) in enumerate(kept, start=1)]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


#: Scores are quarters, so that ties are common and sums exact.
LISTS = st.dictionaries(
    st.tuples(st.sampled_from(["test", "valid"]), st.integers(0, 5), st.sampled_from(["text", "image", "sound"])),
    st.dictionaries(st.integers(0, 9), st.integers(-20, 0).map(lambda quarters: quarters / 4), min_size=1, max_size=6),
    min_size=1,
)

A, B, C = 10, 11, 12
EXAMPLE = {("test", 0, "text"): {A: -1.0, B: -3.0}, ("test", 0, "image"): {B: -1.0, C: -2.0}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [(A, -1.5), (B, -2.0)]),  # c: (-3 - 2) / 2 = -2.5, cut: no list is longer than two
        ("mean_bonus", [(A, -1.0), (B, -1.0)]),  # b: (-3 - 1) / 2 + 1; the tie goes to the smaller item
        ("best", [(A, -1.0), (B, -1.0)]),
    ],
)
def test_by_hand(rule, expected):
    assert scores_of(fuse(rankings(EXAMPLE), rule=rule, cut=2)) == expected


def test_a_list_that_was_not_cut_bounds_nothing_by_its_end():
    """An item that one member knows alone, and is sure of, is before all that another holds."""
    short = EXAMPLE | {("test", 0, "image"): {B: -1.0}}
    fused = scores_of(fuse(rankings(short), rule="mean", cut=2))
    assert fused == [(A, -2.0), (B, -2.0)]  # a: (-1 - 3) / 2, b: (-3 - 1) / 2
    sure = {("test", 0, "text"): {A: -1.0, B: -2.0, C: -3.0}, ("test", 0, "itemknn"): {13: 0.0}}
    assert scores_of(fuse(rankings(sure), rule="mean", cut=3)) == [(13, -1.5), (A, -2.0), (B, -2.5)]


def test_a_list_that_was_cut_bounds_what_it_lacks_beside_a_longer_one():
    """A rescored list is longer than what was cut: c is at most -0.5 in the list that ends there."""
    lists = {("test", 0, "text"): {A: -1.0, B: -2.0, C: -3.0, 13: -4.0}, ("test", 0, "slist"): {A: -0.25, B: -0.5}}
    fused = scores_of(fuse(rankings(lists), rule="mean", cut=2))
    assert fused == [(A, -0.625), (B, -1.25), (C, -1.75), (13, -2.25)]


def test_learned_weights_by_hand():
    """As the docstring has it: sums of 2.5, 2 and 0.5, and their log-shares."""
    fused = fuse(rankings(EXAMPLE), rule="learned", cut=2, weights=dict.fromkeys(("text", "image"), Weight(1.0, 0.5)))
    whole = math.log(sum(map(math.exp, (2.5, 2.0, 0.5))))
    assert [item for item, _ in scores_of(fused)] == [A, B]
    assert [score for _, score in scores_of(fused)] == pytest.approx([2.5 - whole, 2.0 - whole])


def test_a_weight_of_every_ranking_is_needed():
    with pytest.raises(DataError, match="found none of image among those of sound, text"):
        fuse(rankings(EXAMPLE), rule="learned", cut=2, weights={"text": Weight(1, 0), "sound": Weight(1, 0)})


def test_scores_far_apart_are_no_matter():
    far = rankings({("test", 0, "text"): {A: 5000.0, B: 0.0}})
    assert scores_of(fuse(far, rule="learned", cut=2, weights={"text": Weight(1.0, 0.0)})) == [(A, 0.0), (B, -5000.0)]


def test_weights_come_back_from_their_table():
    assert weights_in(weights_table(WEIGHTS)) == WEIGHTS
    assert weights_in(weights_table({})) == {}


def test_bonus_counts_the_further_lists_and_only_those_that_hold_the_item():
    three = EXAMPLE | {("test", 0, "sound"): {B: -2.0, A: -7.0, 13: -9.0}}
    fused = dict(scores_of(fuse(rankings(three), rule="mean_bonus", cut=3)))
    assert fused == {B: 0.0, A: -3.0, C: -2.0}  # b is in three lists: -2 + 2; a in two: -4 + 1; c in one


def test_lists_of_other_users_and_splits_do_not_matter():
    others = {("test", 1, "text"): {A: -0.1}, ("valid", 0, "image"): {A: -0.1}}
    alone = fuse(rankings(EXAMPLE), rule="mean", cut=2)
    assert_frame_equal(fuse(rankings(EXAMPLE | others), rule="mean", cut=2).filter(split="test", user=0), alone)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "learned"])
def test_one_modality_stays_as_it_is(rule):
    one = rankings({("test", 0, "text"): {3: -1.0, 2: -2.0, 1: -3.0}})
    assert_frame_equal(fuse(one, rule=rule, cut=3), one.with_columns(modality=pl.lit("ensemble")))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_fuses_to_nothing(rule):
    assert_frame_equal(fuse(rankings({}), rule=rule, cut=1, weights=WEIGHTS), rankings({}))


@pytest.mark.parametrize("rule", RULES)
@given(lists=LISTS, cut=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_twin(rule, lists, cut):
    fused = fuse(rankings(lists), rule=rule, cut=cut, weights=WEIGHTS)
    assert_frame_equal(fused, fuse_slowly(rankings(lists), rule=rule, cut=cut))


@pytest.mark.parametrize("rule", ["mean", "learned"])
@given(lists=LISTS, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_does_not_matter(rule, lists, seed):
    table = rankings(lists)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=seed)
    weights = {name: Weight(1 / 3, 0.1) for name in WEIGHTS}
    whole = fuse(table, rule=rule, cut=4, weights=weights)
    assert fuse(shuffled, rule=rule, cut=4, weights=weights).equals(whole)


def test_blocks_of_users_make_no_difference(monkeypatch):
    lists = {
        ("test", user, name): {user: -1.0, 9: -2.0} for user, name in itertools.product(range(7), ("text", "image"))
    }
    whole = fuse(rankings(lists), rule="mean", cut=2)
    monkeypatch.setattr(fusion, "USERS_AT_ONCE", 2)
    assert_frame_equal(fuse(rankings(lists), rule="mean", cut=2), whole)


def test_an_item_twice_in_a_list_is_refused():
    table = pl.concat([rankings(EXAMPLE), rankings({("test", 0, "text"): {B: -4.0}})])
    with pytest.raises(DataError, match="found item 11 twice in text of test user 0"):
        fuse(table, rule="mean", cut=2)
