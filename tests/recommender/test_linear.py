"""SLIST: by hand, as least squares solved step by step and item by item, and what is refused."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import DataError
from tessera.recommender import linear
from tessera.recommender.linear import SlistSettings, fit_slist
from tessera.recommender.strengths import strengths_in, strengths_table
from tessera.schemas import STRENGTHS
from tests.recommender.test_popularity import interactions

USUAL = SlistSettings(alpha=0.6, regularisation=0.5, decay=0.7, recency=0.9)
SHOP = {0: [0, 1, 2, 3, 4, 5], 1: [1, 2, 0, 5, 4], 2: [3, 1, 4, 4], 3: [2, 0, 1, 2, 2], 4: [5, 5]}


def solved_plainly(sequences, items, settings):
    """B, with a row of X for each user and one of P and F for each step, and each column by itself."""
    together, before, after = [], [], []
    for sequence in sequences.values():
        train = sequence[:-2]
        together.append(np.bincount(train, minlength=items) > 0)
        for step in range(1, len(train)):
            past, future = np.zeros(items), np.zeros(items)
            for place, item in enumerate(train):
                if place < step:
                    past[item] += settings.decay ** (step - 1 - place)
                else:
                    future[item] += settings.decay ** (place - step)
            before.append(past)
            after.append(future)
    x = np.array(together, float) * settings.alpha**0.5
    p = np.reshape(before, (-1, items)) * (1 - settings.alpha) ** 0.5
    f = np.reshape(after, (-1, items)) * (1 - settings.alpha) ** 0.5
    inputs = np.vstack([x, p, np.eye(items) * settings.regularisation**0.5])
    outputs = np.vstack([x, f, np.zeros((items, items))])
    found = np.zeros((items, items))
    for item in range(items):
        others = np.arange(items) != item
        found[others, item] = np.linalg.lstsq(inputs[:, others], outputs[:, item])[0]
    return found


def test_ridge_regression_by_hand():
    """Items 0 and 1 together at two users, item 1 alone at one: 2 / (2 + 1) for 1 after 0, and 2 / (3 + 1) for 0."""
    shop = interactions({0: [0, 1, 2, 2], 1: [1, 0, 2, 2], 2: [1, 2, 2]})
    found = fit_slist(shop, items=3, settings=SlistSettings(alpha=1.0, regularisation=1.0, decay=0.5, recency=1.0))
    assert found.toarray() == pytest.approx(np.array([[0, 2 / 3, 0], [2 / 4, 0, 0], [0, 0, 0]]))


def test_order_by_hand():
    """One sequence 0, 1: item 0 stands before item 1 once and item 1 before nothing."""
    shop = interactions({0: [0, 1, 2, 2]})
    found = fit_slist(shop, items=3, settings=SlistSettings(alpha=0.0, regularisation=1.0, decay=0.5, recency=1.0))
    assert found.toarray() == pytest.approx(np.array([[0, 1 / 2, 0], [0, 0, 0], [0, 0, 0]]))


SEQUENCES = st.dictionaries(
    st.integers(0, 6), st.lists(st.integers(0, 7), min_size=3, max_size=12), min_size=1, max_size=6
).map(lambda found: dict(sorted(found.items())))
SETTINGS = st.builds(
    SlistSettings,
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    regularisation=st.floats(0.1, 5.0),
    decay=st.sampled_from([0.0, 0.4, 0.95]),
    recency=st.just(1.0),
)


@settings(deadline=None)
@given(sequences=SEQUENCES, chosen=SETTINGS, block=st.sampled_from([1, 24, 10**6]), tile=st.sampled_from([1, 3, 128]))
def test_it_is_the_least_squares_of_each_item(sequences, chosen, block, tile):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "ENTRIES", block)
        patch.setattr(linear, "TILE", tile)
        patch.setattr(linear, "SMALLEST", 0.0)
        found = fit_slist(interactions(sequences), items=8, settings=chosen).toarray()
    assert found == pytest.approx(solved_plainly(sequences, 8, chosen), abs=1e-5)


def test_small_strengths_are_left_out():
    shop = interactions(SHOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "SMALLEST", 0.0)
        every = fit_slist(shop, items=6, settings=USUAL).toarray()
        patch.setattr(linear, "SMALLEST", 0.3)
        some = fit_slist(shop, items=6, settings=USUAL)
    assert 0 < some.nnz < np.count_nonzero(every)
    small = np.abs(every) < 0.3 * np.abs(every).max(axis=0)
    assert some.toarray().tolist() == np.where(small, 0.0, every).tolist()


def test_targets_of_others_count_for_nothing():
    moved = {user: [*items[:-2], 4, 1] for user, items in SHOP.items()}
    first, second = (fit_slist(interactions(shop), items=6, settings=USUAL) for shop in (SHOP, moved))
    assert first.toarray().tolist() == second.toarray().tolist()


def test_strengths_are_what_their_table_holds():
    strengths = fit_slist(interactions(SHOP), items=6, settings=USUAL)
    table = strengths_table(strengths)
    assert table.schema == STRENGTHS
    assert table.equals(table.sort("item", "next"))
    assert (strengths_in(table, items=6) != strengths).nnz == 0


def test_scaled_strengths_are_cut_alike():
    """All weights ten times as large are all strengths a tenth: no more of them is left out."""
    shop = interactions(SHOP)
    ten_times = pl.concat([shop.with_columns(user=pl.col("user") + 5 * copy) for copy in range(10)]).cast(shop.schema)
    one = fit_slist(shop, items=6, settings=USUAL)
    ten = fit_slist(ten_times, items=6, settings=USUAL._replace(regularisation=10 * USUAL.regularisation))
    assert ten.toarray() == pytest.approx(one.toarray())
    weak = fit_slist(shop, items=6, settings=USUAL._replace(regularisation=1e5))
    assert weak.nnz >= one.nnz // 2


def test_a_regularisation_that_leaves_no_inverse_is_an_error():
    shop = interactions({user: [*range(6), 6, 7] for user in range(3)})
    with pytest.raises(DataError, match=r"slist\.regularisation: expected one with which C has an inverse"):
        fit_slist(shop, items=8, settings=SlistSettings(alpha=1.0, regularisation=1e-17, decay=0.5, recency=1.0))


def test_too_many_items_are_an_error():
    with pytest.raises(DataError, match="slist: expected at most 20,000 items, found 20,001"):
        fit_slist(interactions(SHOP), items=20_001, settings=USUAL)


def test_nothing_to_learn_from_is_an_error():
    shop = interactions(SHOP).filter(pl.col("split") != "train")
    with pytest.raises(DataError, match="training interactions: expected at least one, found none"):
        fit_slist(shop, items=6, settings=USUAL)
