import polars as pl
import pytest

from tessera.report.agreement import CUT, agreements_of, common_share
from tessera.schemas import PER_USER, RANKINGS
from tests.finished_run import key_of, shop_items


def per_user(**ranks):
    rows = [
        ("test", user, name, user + 10, rank, 5, 5) for name, given in ranks.items() for user, rank in enumerate(given)
    ]
    return pl.DataFrame([*rows, ("valid", 0, "text", 1, 1, 5, 5)], schema=PER_USER, orient="row")


def lists(**of_users):
    rows = [
        ("test", user, name, rank, item, 0.0)
        for name, users in of_users.items()
        for user, items in users.items()
        for rank, item in enumerate(items, 1)
    ]
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


def agreements(ranks, members=("text", "image"), rankings=None):
    return agreements_of(
        ranks, lists() if rankings is None else rankings, shop_items(), members=members, ensemble="ensemble"
    )


def test_who_finds_it_by_hand():
    ranks = per_user(text=[1, CUT, CUT + 1, None], image=[2, None, 1, None], ensemble=[1, None, 3, None])
    (found,) = agreements(ranks)
    assert found.rankings == ("text", "image")
    cells = {cell.name: (cell.users, cell.share, cell.found_together) for cell in found.cells}
    assert cells == {
        "both": (1, 0.25, 1),
        "only text": (1, 0.25, 0),
        "only image": (1, 0.25, 1),
        "neither": (1, 0.25, 0),
    }
    assert [entry.key for entry in found.cells[1].shown] == [key_of(11)]
    assert found.common is None


def test_without_an_ensemble_and_without_users():
    (found,) = agreements(per_user(text=[1], image=[1]))
    assert [cell.found_together for cell in found.cells] == [None] * 4
    assert found.cells[3].shown == []


@pytest.mark.parametrize("members", [[], ["text"]])
def test_one_alone_agrees_with_nobody(members):
    assert agreements(per_user(text=[1]), members) == []


def test_each_two_of_three():
    found = agreements(per_user(a=[1], b=[1], c=[1]), ("a", "b", "c"))
    assert [each.rankings for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_common_items_by_hand():
    table = lists(text={0: [1, 2], 1: [3, 4], 2: [5]}, image={0: [2, 9], 1: [8, 9]})
    text, image = table.filter(modality="text"), table.filter(modality="image")
    assert common_share(text, image) == 0.25
    long = lists(text={0: list(range(20))}, image={0: list(range(10, 30))})
    (found,) = agreements(per_user(text=[1], image=[1]), rankings=long)
    assert (found.common, found.compared) == (0, 1)
