import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tessera.errors import DataError
from tessera.recommender.metrics import measure, ranks_by_ranking
from tessera.recommender.targets import (
    check_rankings,
    doubts,
    find_targets,
    found_targets,
    lists_of,
    names_of,
    parts_of,
    target_ranks,
)
from tessera.schemas import INTERACTIONS, PER_USER, RANKINGS


def interactions(*rows):
    return pl.DataFrame(rows, schema=INTERACTIONS, orient="row")


def rankings(*rows):
    return pl.DataFrame([(*row, -1.0) for row in rows], schema=RANKINGS, orient="row")


SHOP = interactions(
    (1, 5, 0, 0, "train"), (1, 6, 1, 1, "train"), (1, 7, 2, 2, "valid"), (1, 8, 3, 3, "test"),
    (0, 5, 0, 0, "train"), (0, 8, 1, 1, "valid"), (0, 5, 2, 2, "test"),
)  # fmt: skip
TARGETS = find_targets(SHOP)


def test_targets_by_hand():
    assert TARGETS.columns == ["split", "user", "item", "target_frequency", "history_length"]
    assert TARGETS.rows() == [
        ("test", 0, 5, 2, 2),
        ("test", 1, 8, 0, 3),  # item 8 is cold: user 0's validation item is not training
        ("valid", 0, 8, 0, 1),
        ("valid", 1, 7, 0, 2),
    ]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_without_targets_is_refused(split):
    with pytest.raises(DataError, match=f"expected a {split} target for each user, found none"):
        find_targets(SHOP.filter(pl.col("split") != split))


def test_two_targets_are_refused():
    with pytest.raises(DataError, match="expected one test target a user, found several of user 1"):
        find_targets(pl.concat([SHOP, interactions((1, 9, 4, 4, "test"))]))


LISTS = rankings(
    ("test", 1, "text", 1, 5), ("test", 1, "text", 2, 8), ("test", 0, "text", 1, 5),
    ("valid", 1, "text", 1, 8), ("valid", 0, "image", 1, 8),
)  # fmt: skip


def ranks_of(rankings, targets):
    return target_ranks(found_targets(rankings, targets), targets, names=names_of(rankings.lazy()))


def test_ranks_by_hand():
    ranks = ranks_of(LISTS, TARGETS)
    assert ranks.schema == pl.Schema(PER_USER)
    assert ranks.drop("target_frequency", "history_length").rows() == [
        ("test", 0, "text", 5, 1),
        ("test", 1, "text", 8, 2),
        ("valid", 0, "text", 8, None),  # no list at all
        ("valid", 1, "text", 7, None),  # a list without the target, though with user 0's
        ("test", 0, "image", 5, None),
        ("test", 1, "image", 8, None),
        ("valid", 0, "image", 8, 1),
        ("valid", 1, "image", 7, None),
    ]


def test_users_without_a_list_count_as_misses():
    ranks = ranks_by_ranking(ranks_of(LISTS, TARGETS))
    assert measure(ranks["valid"]["image"])["hr@1"] == 0.5


def test_the_order_of_rows_does_not_matter_within_a_ranking():
    text = LISTS.filter(modality="text")
    assert_frame_equal(ranks_of(text.reverse(), TARGETS.reverse()).sort("split", "user"), ranks_of(text, TARGETS))


def test_a_target_twice_in_a_list_is_refused():
    with pytest.raises(DataError, match="found a target twice"):
        found_targets(pl.concat([LISTS, rankings(("test", 0, "text", 2, 5))]), TARGETS)


def test_a_ranking_in_which_nobody_has_a_list_is_all_misses():
    ranks = target_ranks(found_targets(LISTS, TARGETS), TARGETS, names=["text", "sound"])
    assert ranks.filter(ranking="sound")["rank"].to_list() == [None] * TARGETS.height


@pytest.mark.parametrize("most", [1, 2, 9])
def test_parts_of_the_targets_and_their_lists_are_the_whole(most):
    parts = list(parts_of(TARGETS, most=most))
    assert all(part.height <= most and part["split"].n_unique() == 1 for part in parts)
    assert_frame_equal(pl.concat(parts), TARGETS)
    lists = [lists_of(LISTS.lazy(), part) for part in parts]
    assert_frame_equal(pl.concat(lists), LISTS, check_row_order=False)
    assert all(set(mine["user"]) <= set(part["user"]) for mine, part in zip(lists, parts, strict=True))


def check(*rows, table=LISTS, reserved=("ensemble",)):
    check_rankings(pl.concat([table, rankings(*rows)]).lazy(), TARGETS, items=9, reserved=reserved)


def test_rankings_that_fit_pass():
    before = LISTS.clone()
    check()
    assert_frame_equal(LISTS, before)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("test", 0, "text", 2, 9), r"expected items of the catalogue, 0 to 8, found 9 \(text, test user 0\)"),
        (("test", 2, "text", 1, 5), r"expected users with a target, found 1 without, as user 2 \(test\)"),
        (("train", 0, "text", 1, 5), r"expected users with a target, found 1 without, as user 0 \(train\)"),
        (("test", 0, "ensemble", 1, 5), "expected modalities named otherwise than ensemble, found 'ensemble'"),
    ],
)
def test_rankings_that_do_not_fit_are_refused(row, message):
    with pytest.raises(DataError, match=message):
        check(row)


def test_no_rankings_pass():
    check(table=LISTS.clear())
    assert doubts(LISTS.clear().lazy(), TARGETS) == []


def test_doubts():
    lists = [("test", 0), ("test", 1), ("valid", 0)]
    long = rankings(*[(split, user, "text", place, place) for split, user in lists for place in range(1, 11)])
    assert doubts(long.filter(split="test").lazy(), TARGETS.filter(split="test")) == []
    assert doubts(long.lazy(), TARGETS) == ["text: 1 of 2 valid users have no ranking and count as misses"]
    short = long.filter((pl.col("user") == 0) | (pl.col("rank") < 10))
    assert doubts(short.lazy(), TARGETS.filter(split="test")) == [
        "text: 1 of 2 test rankings hold fewer than 10 items; hr@10 is cut there"
    ]
