import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import ParamsError
from tessera.recommender.metrics import (
    MEASURES,
    bootstrap_intervals,
    measure,
    measure_cuts,
    measure_slices,
    ranks_by_ranking,
    ranks_in,
)
from tessera.schemas import PER_USER

MISS = math.inf
RANKS = st.lists(st.one_of(st.integers(1, 25), st.just(MISS)), min_size=1, max_size=40)


def per_user(*rows):
    return pl.DataFrame(rows, schema=PER_USER, orient="row")


def test_ranks_in_lists_by_hand():
    lists, targets = np.array([[7, 3], [5, -1], [1, 2]]), np.array([3, 5, 9])
    assert ranks_in(lists, targets).tolist() == [2, 1, MISS]


def test_by_hand():
    found = measure(np.array([1.0, 3.0, 7.0, MISS]))
    assert found == pytest.approx(
        {
            "hr@1": 1 / 4,
            "hr@5": 2 / 4,
            "hr@10": 3 / 4,
            "ndcg@5": (1 + 1 / 2) / 4,  # log2(1 + 1) = 1, log2(3 + 1) = 2
            "ndcg@10": (1 + 1 / 2 + 1 / 3) / 4,  # log2(7 + 1) = 3
            "mrr": (1 + 1 / 3 + 1 / 7) / 4,
        }
    )


def test_a_rank_beyond_the_last_cut_counts_for_mrr_alone():
    found = measure(np.array([20.0]))
    assert found.pop("mrr") == 1 / 20
    assert set(found.values()) == {0.0}


def measure_slowly(lists, targets):
    """The twin: go through each user's list, and sum the gains of relevant items over those of an ideal list."""
    totals = dict.fromkeys(MEASURES, 0.0)
    for items, target in zip(lists, targets, strict=True):
        relevant = [item == target for item in items]
        for k in (1, 5, 10):
            totals[f"hr@{k}"] += any(relevant[:k])
        for k in (5, 10):
            gain = sum(1 / math.log2(place + 2) for place, found in enumerate(relevant[:k]) if found)
            totals[f"ndcg@{k}"] += gain / (1 / math.log2(2))
        totals["mrr"] += next((1 / (place + 1) for place, found in enumerate(relevant) if found), 0.0)
    return {name: total / len(targets) for name, total in totals.items()}


@given(users=st.lists(st.tuples(st.permutations(range(15)), st.integers(0, 20)), min_size=1, max_size=10))
def test_twin(users):
    lists, targets = zip(*users, strict=True)
    ranks = [items.index(target) + 1 if target in items else MISS for items, target in users]
    assert measure(np.array(ranks, dtype=float)) == pytest.approx(measure_slowly(lists, targets))


@given(ranks=RANKS)
def test_bounds(ranks):
    found = measure(np.array(ranks, dtype=float))
    assert all(0 <= value <= 1 for value in found.values())
    assert found["hr@1"] <= found["hr@5"] <= found["hr@10"]
    assert found["ndcg@5"] <= found["ndcg@10"] <= found["hr@10"] + 1e-12
    assert found["ndcg@5"] <= found["hr@5"] + 1e-12
    assert found["hr@1"] <= found["mrr"] + 1e-12


def test_cuts_agree_with_the_measures_and_rise():
    ranks = np.array([1.0, 2.0, 4.0, 9.0, 15.0, MISS])
    records = measure_cuts({"text": ranks}, longest=20)
    assert [record["k"] for record in records] == list(range(1, 21))
    assert {record["ranking"] for record in records} == {"text"}
    assert records[9]["hr"] == measure(ranks)["hr@10"]
    assert records[4]["ndcg"] == measure(ranks)["ndcg@5"]
    for name in ("hr", "ndcg"):
        values = [record[name] for record in records]
        assert values == sorted(values)
        assert values[-1] > values[0]


def intervals(ranks, *, confidence=0.95, resamples=2000, seed=0):
    generator = np.random.default_rng(seed)
    return bootstrap_intervals(ranks, confidence=confidence, resamples=resamples, generator=generator)


SOME = np.array([1.0] * 20 + [4.0] * 30 + [12.0] * 50 + [MISS] * 100)


def test_intervals_twin():
    """Drawing counts of ranks is drawing users: the interval of resampled users is the same but for chance."""
    generator = np.random.default_rng(1)
    samples = [measure(generator.choice(SOME, size=len(SOME))) for _ in range(2000)]
    for name, (low, high) in intervals(SOME).items():
        slow = np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        assert [low, high] == pytest.approx(slow, abs=0.012), name


def test_intervals_hold_the_measure_and_the_normal_approximation():
    found = measure(SOME)
    for name, (low, high) in intervals(SOME).items():
        assert low < found[name] < high
    low, high = intervals(SOME)["hr@10"]
    half = 1.96 * math.sqrt(found["hr@10"] * (1 - found["hr@10"]) / len(SOME))
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_intervals_of_certainty_are_points():
    assert set(intervals(np.ones(7)).values()) == {(1.0, 1.0)}
    assert set(intervals(np.full(7, MISS)).values()) == {(0.0, 0.0)}


def test_confidence_widens_and_users_narrow_intervals():
    def width(found):
        low, high = found["hr@10"]
        return high - low

    assert width(intervals(SOME, confidence=0.5)) < width(intervals(SOME)) < width(intervals(SOME, confidence=0.999))
    assert width(intervals(np.tile(SOME, 16))) == pytest.approx(width(intervals(SOME)) / 4, rel=0.15)


def test_intervals_depend_on_the_generator_and_resamples_alone():
    assert intervals(SOME) == intervals(SOME)
    assert intervals(SOME) == intervals(SOME[::-1].copy())
    assert intervals(SOME, seed=1) != intervals(SOME)
    assert intervals(SOME, resamples=1500) != intervals(SOME)


USERS = per_user(
    ("test", 0, "text", 7, 1, 0, 3),
    ("test", 1, "text", 7, None, 0, 4),
    ("test", 2, "text", 8, 3, 1, 5),
    ("test", 3, "text", 8, 12, 4, 99),
    ("test", 0, "image", 7, None, 5, 6),
    ("valid", 0, "text", 7, 2, 6, 6),
)


def test_slices_by_hand():
    bounds = {"target_frequency": [1, 5], "history_length": [4, 6]}
    records = measure_slices(USERS, bounds=bounds)
    text = [
        tuple(record.values())[2:] for record in records if (record["split"], record["ranking"]) == ("test", "text")
    ]
    assert text == [
        ("target_frequency", "0", 2, 0.5, 0.5),
        ("target_frequency", "1-4", 2, 0.5, 0.25),
        ("history_length", "0-3", 1, 1.0, 1.0),
        ("history_length", "4-5", 2, 0.5, 0.25),
        ("history_length", "6+", 1, 0.0, 0.0),
    ]
    assert records[0].keys() == {"split", "ranking", "kind", "slice", "users", "hr@10", "ndcg@10"}
    assert {"split": "valid", "ranking": "text", "kind": "target_frequency", "slice": "5+"}.items() <= next(
        record for record in records if record["split"] == "valid"
    ).items()


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    begins=st.lists(st.integers(1, 30), max_size=5, unique=True).map(sorted),
)
def test_slices_part_the_users(lengths, begins):
    rows = [("test", user, "text", 0, 1 + user, 0, length) for user, length in enumerate(lengths)]
    records = measure_slices(per_user(*rows), bounds={"history_length": begins})
    assert sum(record["users"] for record in records) == len(lengths)
    whole = sum(record["users"] * record["hr@10"] for record in records) / len(lengths)
    assert whole == pytest.approx(min(10, len(lengths)) / len(lengths))


@pytest.mark.parametrize("bounds", [[0, 4], [4, 4], [6, 4]])
def test_bounds_that_do_not_rise_are_refused(bounds):
    with pytest.raises(ParamsError, match="history_length: expected rising bounds"):
        measure_slices(USERS, bounds={"history_length": bounds})


def test_ranks_by_ranking():
    ranks = ranks_by_ranking(USERS)
    assert {split: list(rankings) for split, rankings in ranks.items()} == {
        "test": ["text", "image"],
        "valid": ["text"],
    }
    assert ranks["test"]["text"].tolist() == [1, MISS, 3, 12]
