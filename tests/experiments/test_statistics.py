from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.experiments.statistics import holm, permutation_test

#: Of (b + 1) / (F + 1) around its expectation.
FLIPS = 40_000
NEAR = 0.015


def exact(differences):
    """The share of all sign flips whose mean is at least as far from 0 as the mean of differences."""
    far = abs(sum(differences)) - 1e-9
    flips = list(product((-1, 1), repeat=len(differences)))
    return sum(abs(np.dot(signs, differences)) >= far for signs in flips) / len(flips)


def p_value(differences, seed=0, flips=FLIPS):
    return permutation_test(np.array(differences), flips=flips, generator=np.random.default_rng(seed))


def test_five_users_by_hand():
    """Of 32 flips only all plus and all minus are as far from 0 as all plus."""
    assert exact([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 32
    assert p_value([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32, abs=0.005)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0, -0.1, -0.5, -1.0]), min_size=1, max_size=10))
def test_the_drawn_p_value_is_near_that_of_all_flips(differences):
    assert p_value(differences) == pytest.approx(exact(differences), abs=NEAR)


def test_users_without_a_difference_change_nothing():
    assert p_value([0.5, 0.25, 0.5, 0.25, 0.0, 0.0, 0.0]) == p_value([0.5, 0.25, 0.5, 0.25])


def test_no_difference_is_no_evidence():
    assert p_value([0.0] * 20) == 1.0
    assert p_value([1.0, -1.0]) == 1.0


def test_a_p_value_is_never_0_and_the_seed_decides_it():
    assert p_value([1.0] * 100, flips=99) == 1 / 100
    some = [1.0, 0.5, -0.25, 0.75, 1.0, -1.0, 0.5]
    assert p_value(some, seed=1) == p_value(some, seed=1) != p_value(some, seed=2)


def test_more_flips_than_are_drawn_at_a_time(monkeypatch):
    monkeypatch.setattr("tessera.experiments.statistics.BATCH", 10)
    assert p_value([1.0, 2.0, 3.0], flips=4000) == pytest.approx(2 / 8, abs=0.03)


def test_holm_by_hand():
    """0.01 x 4; 0.02 x 3; 0.03 x 2, no more than the one before; 0.5 x 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03, 0.01], tests=5) == pytest.approx([0.12, 0.05])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lowers_nothing(p_values):
    adjusted = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == min(1.0, min(p_values) * len(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)
