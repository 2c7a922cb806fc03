import numpy as np
import polars as pl

from tessera.report.collided import SHOWN_GROUPS, SHOWN_ITEMS, collided_of
from tessera.report.semantic_ids import semantic_ids_of
from tessera.schemas import IDS
from tests.finished_run import key_of, shop_items


def ids(*rows):
    return pl.DataFrame(rows, schema=IDS, orient="row")


def test_groups_by_hand():
    found = collided_of(
        ids(
            (3, "text", [1, 2], [1, 1], True),
            (4, "text", [1, 1], [1, 1], False),
            (5, "text", [9, 9], [9, 9], False),
            (3, "image", [1, 1], [1, 1], False),
            (4, "image", [2, 2], [2, 2], False),
        ),
        shop_items(),
    )
    assert [(each.modality, each.groups, each.items) for each in found] == [("text", 1, 2)]
    (group,) = found[0].shown
    assert (group.first_codes, group.items) == ([1, 1], 2)
    stayed, moved = (key_of(4), "Thing 4", [1, 1], False), (key_of(3), "Thing 3", [1, 2], True)
    assert group.shown == [stayed, moved]


def test_the_largest_groups_come_first_and_there_is_a_bound():
    rows = [(place * 4 + each, "text", [place, each], [place, 0], each > 0) for place in range(9) for each in range(4)]
    rows += [(36 + each, "text", [20, each], [20, 0], each > 0) for each in range(4)] + [
        (0, "text", [20, 9], [20, 0], True)
    ]
    (found,) = collided_of(ids(*rows[4:]), shop_items())
    assert (found.groups, found.items, len(found.shown)) == (9, 37, SHOWN_GROUPS)
    assert [group.first_codes[0] for group in found.shown[:3]] == [20, 1, 2]
    assert len(found.shown[0].shown) == SHOWN_ITEMS


def test_items_that_were_given_the_codes_of_another_did_not_collide():
    rows = [(item, "text", [0, item], [0, 0], item > 0) for item in range(3)]
    rows += [(item, "image", [0, item], [0, 0], item > 0) for item in range(3)]
    lent = pl.DataFrame([(1, "image"), (2, "image")], schema={"item": IDS["item"], "modality": pl.String}, orient="row")
    rates = {"collision_rate_before": 66.7, "collision_rate_after": 0.0}
    found = semantic_ids_of(
        ids(*rows),
        shop_items(),
        {"text": rates, "image": rates},
        lent,
        codebook_size=3,
        levels=2,
        generator=np.random.default_rng(0),
    )
    assert [(each.modality, each.items) for each in found.collided] == [("text", 3)]
