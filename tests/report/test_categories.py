import numpy as np
import polars as pl
import pytest

from tessera.report.categories import agreement_of, groups_at, labels_of, mutual_information, purity
from tessera.schemas import ITEMS


def shop(*paths):
    rows = [(item, f"k{item}", "", "", path, True, 5) for item, path in enumerate(paths)]
    return pl.DataFrame(rows, schema=ITEMS, orient="row")


def test_the_first_depth_that_tells_items_apart():
    labels = labels_of(shop(["Home", "Mugs"], ["Home", "Vases"], ["Home"], ["Home", "Mugs"]))
    assert (labels.depth, labels.names) == (1, ["Mugs", "Vases"])
    assert labels.of_items.tolist() == [0, 1, -1, 0]


def test_a_category_that_nearly_all_have_tells_nothing():
    labels = labels_of(shop(*[["Home", str(item % 2)] for item in range(19)], ["Garden", "0"]))
    assert (labels.depth, labels.names) == (1, ["0", "1"])


def test_categories_of_a_few_items_are_not_those_of_the_shop():
    paths = [*[["Home"]] * 6, ["Home", "Mugs"], ["Home", "Vases"]]
    assert labels_of(shop(*paths)) is None
    assert labels_of(shop(*paths[4:])).depth == 1


@pytest.mark.parametrize("paths", [[[], []], [["Home"], ["Home"]], []])
def test_no_categories(paths):
    assert labels_of(shop(*paths)) is None


def test_purity_by_hand():
    assert purity(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6])) == 0.75
    assert purity(np.array([0, 1, 2, 3]), np.array([5, 5, 6, 6])) == 1


def test_mutual_information_by_hand():
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3])) == pytest.approx(1)
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([7, 3, 7, 3])) == pytest.approx(0)
    # groups of one: I = H(labels) = ln 2, the mean of the entropies (ln 4 + ln 2) / 2
    assert mutual_information(np.array([0, 1, 2, 3]), np.array([7, 7, 3, 3])) == pytest.approx(2 / 3)


def test_groups_are_those_of_the_whole_prefix():
    assert groups_at([[1, 2], [3, 2], [1, 2], [1, 4]], 1).tolist() == [0, 1, 0, 2]
    assert groups_at([[1, 2], [3, 2], [1, 2], [1, 4]], 0).tolist() == [0, 1, 0, 0]


def test_levels_are_compared_with_chance_and_items_without_a_category_do_not_count():
    codes = [[group, item] for item in range(40) for group in [item % 2]]
    labels = np.array([item % 2 for item in range(40)])
    first, last = agreement_of([*codes, [0, 99]], np.append(labels, -1), generator=np.random.default_rng(0))
    assert (first.level, first.groups, first.purity, first.nmi) == (0, 2, 1, pytest.approx(1))
    assert first.purity_by_chance < 0.8
    assert first.nmi_by_chance < 0.2
    assert (last.groups, last.purity, last.purity_by_chance) == (40, 1, 1)
