"""Counted transitions: by hand, as dictionaries would count them, and the known figures of a real shop."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.items.amazon import read_reviews
from tessera.items.filtering import in_order, numbered
from tessera.items.splits import leave_one_out
from tessera.recommender.corpus import histories
from tessera.recommender.lists import IMPOSSIBLE, rankings_table
from tessera.recommender.metrics import measure, ranks_by_ranking
from tessera.recommender.strengths import rank_by_strength
from tessera.recommender.targets import find_targets, found_targets, target_ranks
from tessera.recommender.transitions import Weights, transition_matrix
from tests.recommender.dense import strength_scores
from tests.recommender.test_popularity import interactions

USUAL = Weights(reach=10, decay=0.5, reverse=0.7, column_power=0.1, row_power=0.5, recency=0.5)
PLAIN = Weights(reach=2, decay=0.5, reverse=0.0, column_power=0.0, row_power=0.0, recency=0.5)


def test_counts_by_hand():
    """Training sequences 0, 1, 2, 3 and 1, 2; at most two steps from one item to the next."""
    shop = interactions({0: [0, 1, 2, 3, 4, 4], 1: [1, 2, 4, 4]})
    assert transition_matrix(shop, items=5, weights=PLAIN).toarray().tolist() == [
        [0, 1, 0.5, 0, 0],
        [0, 0, 2, 0.5, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],  # only as a target
    ]


def test_powers_by_hand():
    """One sequence 0, 1, 2: the columns' sums are 0, 1 and 1.5, and the rows' after division 0.5 + 0.2, 0.4 and 0."""
    shop = interactions({0: [0, 1, 2, 0, 0]})
    found = transition_matrix(shop, items=3, weights=PLAIN._replace(column_power=1.0)).toarray()
    assert found == pytest.approx(np.array([[0, 0.5, 0.2], [0, 0, 0.4], [0, 0, 0]]))
    found = transition_matrix(shop, items=3, weights=PLAIN._replace(column_power=1.0, row_power=1.0)).toarray()
    assert found == pytest.approx(np.array([[0, 5 / 7, 2 / 7], [0, 0, 1], [0, 0, 0]]))


def test_scores_by_hand():
    """After 0, 1 item 2 has 2 from item 1 and half of 0.5 from item 0, item 3 has 0.5, and item 1 half of 1."""
    shop = interactions({0: [0, 1, 2, 3, 4, 4], 1: [1, 2, 4, 4], 2: [0, 1, 4, 4], 3: [3, 4, 4]})
    matrix = transition_matrix(shop.filter(pl.col("user") < 2), items=5, weights=PLAIN)
    found = histories(shop, split="valid", max_history=20)
    scores = strength_scores(matrix, found.block(slice(2, 4)), recency=PLAIN.recency)
    assert np.exp(scores[0]) == pytest.approx(np.array([0, 0.5, 2.25, 0.5, 0]) / 3.25)
    assert scores[1].tolist() == [IMPOSSIBLE] * 5  # nothing follows item 3


def counted_plainly(sequences, weights):
    """The strength of b after a, from dictionaries and the formulas."""
    counts = {}
    for items in sequences.values():
        train = items[:-2]
        for place, first in enumerate(train):
            for step, second in enumerate(train[place + 1 : place + 1 + weights.reach]):
                value = weights.decay**step
                counts[first, second] = counts.get((first, second), 0) + value
                counts[second, first] = counts.get((second, first), 0) + weights.reverse * value
    columns, rows = {}, {}
    for (_, second), value in counts.items():
        columns[second] = columns.get(second, 0) + value
    held_back = {pair: value / (columns[pair[1]] + 1) ** weights.column_power for pair, value in counts.items()}
    for (first, _), value in held_back.items():
        rows[first] = rows.get(first, 0) + value
    return {pair: value / rows[pair[0]] ** weights.row_power for pair, value in held_back.items() if value}


def scored_plainly(history, strengths, weights):
    """The log-share of each item that anything in history calls for."""
    found = {}
    for back, first in enumerate(reversed(history)):
        for (before, second), value in strengths.items():
            if before == first:
                found[second] = found.get(second, 0) + weights.recency**back * value
    return {item: math.log(value / sum(found.values())) for item, value in found.items()}


@given(
    st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=9), min_size=1, max_size=6),
    st.sampled_from([USUAL, PLAIN, USUAL._replace(reach=1), USUAL._replace(row_power=0.0, reverse=0.0)]),
    st.integers(1, 5),
)
def test_twin(lists, weights, max_history):
    sequences = dict(enumerate(lists))
    shop, strengths = interactions(sequences), counted_plainly(sequences, weights)
    matrix = transition_matrix(shop, items=8, weights=weights)
    for split, left in (("valid", 2), ("test", 1)):
        scores = strength_scores(matrix, histories(shop, split=split, max_history=max_history), recency=weights.recency)
        for row, items in zip(scores, sequences.values(), strict=True):
            expected = scored_plainly(items[:-left][-max_history:], strengths, weights)
            assert {item: row[item] for item in np.flatnonzero(row > IMPOSSIBLE)} == pytest.approx(expected)


def test_validation_and_test_items_of_others_count_for_nothing():
    """Item 4 follows item 3 as a target alone."""
    one, other = (interactions({0: [0, 1, 2, *targets], 1: [1, 2, 3, 3]}) for targets in ([3, 4], [0, 0]))
    first, second = (transition_matrix(shop, items=5, weights=USUAL).toarray() for shop in (one, other))
    assert first.tolist() == second.tolist()


def test_known_figures_of_instruments(shared_data):
    path = shared_data("instruments") / "Musical_Instruments.json.gz"
    reviews, _ = read_reviews(path, form="amazon2018", max_malformed=0.0)
    shop = leave_one_out(in_order(numbered(reviews), ties="hash"))
    matrix = transition_matrix(shop, items=6250, weights=USUAL)
    tables = []
    for split in ("valid", "test"):
        found = histories(shop, split=split, max_history=20)
        lists = rank_by_strength(matrix, found, recency=USUAL.recency, length=10)
        tables.append(rankings_table(*lists, users=pl.Series(found.users), split=split, modality="itemknn"))
    targets = find_targets(shop)
    ranks = ranks_by_ranking(target_ranks(found_targets(pl.concat(tables), targets), targets, names=["itemknn"]))
    test, valid = measure(ranks["test"]["itemknn"]), measure(ranks["valid"]["itemknn"])
    known = {"hr@1": 0.0735, "hr@5": 0.1109, "hr@10": 0.1305, "ndcg@10": 0.0995}
    assert {name: round(test[name], 4) for name in known} == known
    assert (round(valid["hr@10"], 4), round(valid["ndcg@10"], 4)) == (0.1545, 0.1191)
