import numpy as np
import polars as pl
import pytest

from tessera.report.examples import SHOWN_HISTORY, SHOWN_RANKING, draw_users, examples_of
from tessera.schemas import INTERACTIONS, RANKINGS
from tests.finished_run import key_of, shop_items, shop_users, user_of


def interactions(sequences):
    rows = []
    for user, items in sequences.items():
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        rows += [(user, item, 0, place, split) for place, (item, split) in enumerate(zip(items, splits, strict=True))]
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def ensemble(lists, *, split="test"):
    rows = [
        (split, user, "ensemble", place, item, -place)
        for user, items in lists.items()
        for place, item in enumerate(items, 1)
    ]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


LONG = list(range(12))
SHOP = interactions({3: [5, 6, 7, 8], 4: [*LONG, 20, 21]})
LISTS = ensemble({3: [9, 8, 5], 4: list(range(22, 36))})


def examples(users, *, interactions=SHOP, rankings=LISTS, names=("ensemble",)):
    return examples_of(
        users, interactions=interactions, rankings=rankings, names=names, items=shop_items(), keys=shop_users()
    )


def test_by_hand():
    (example,) = examples([3])
    (ranked,) = example.recommended
    assert (example.user, example.earlier) == (user_of(3), 0)
    assert (ranked.ranking, ranked.rank, ranked.length) == ("ensemble", 2, 3)
    assert ranked.is_hit
    assert [entry.title for entry in example.history] == ["Thing 5", "Thing 6", "Thing 7"]
    assert example.target.key == key_of(8)
    assert [(entry.key, entry.is_target, entry.is_seen) for entry in ranked.entries] == [
        (key_of(9), False, False),
        (key_of(8), True, False),
        (key_of(5), False, True),
    ]


def test_long_lists_are_cut_to_the_latest_and_the_best():
    (example,) = examples([4])
    assert [entry.key for entry in example.history] == [key_of(item) for item in [*LONG, 20]][-SHOWN_HISTORY:]
    assert example.earlier == 13 - SHOWN_HISTORY
    (ranked,) = example.recommended
    assert [entry.key for entry in ranked.entries] == [key_of(22 + place) for place in range(SHOWN_RANKING)]
    assert (ranked.rank, ranked.length, ranked.is_hit) == (None, 14, False)


def test_a_hit_below_what_is_shown_still_has_its_rank():
    (example,) = examples([4], rankings=ensemble({4: [*range(22, 33), 21]}))
    (ranked,) = example.recommended
    assert (ranked.rank, ranked.is_hit) == (12, False)


def test_the_validation_list_is_not_shown():
    both = pl.concat([ensemble({3: [30, 31]}, split="valid"), LISTS])
    assert examples([3], rankings=both) == examples([3])


def test_entries_are_all_that_is_shown():
    assert {entry.key for entry in examples([3])[0].entries} == {key_of(item) for item in (5, 6, 7, 8, 9)}


def test_each_ranking_is_shown_in_its_order_also_one_that_has_nothing_for_the_user():
    text = ensemble({3: [8]}).with_columns(modality=pl.lit("text"))
    (example,) = examples([3], rankings=pl.concat([LISTS, text]), names=("text", "image", "ensemble"))
    assert [(each.ranking, each.rank, each.length) for each in example.recommended] == [
        ("text", 1, 1),
        ("image", None, 0),
        ("ensemble", 2, 3),
    ]


def draw(number, *, seed=0):
    lists = pl.concat([ensemble({user: [1] for user in range(50)}), ensemble({99: [1]}, split="valid")])
    return draw_users(lists, examples=number, generator=np.random.default_rng(seed))


def test_users_are_drawn_by_the_generator_alone():
    assert draw(5) == draw(5) == sorted(set(draw(5)))
    assert draw(5) != draw(5, seed=1)


@pytest.mark.parametrize(("number", "drawn"), [(1, 1), (7, 7), (50, 50), (60, 50)])
def test_so_many_users_of_the_test_split_are_drawn(number, drawn):
    users = draw(number)
    assert len(set(users)) == drawn
    assert set(users) <= set(range(50))
