"""Vectors made worse on purpose: by so much, of these items, and nothing else."""

import numpy as np
import polars as pl
import pytest

from tessera.errors import DataError
from tessera.items.impairing import Impairment, impaired, remaining
from tessera.items.vectors import Vectors

ITEMS, WIDTH = 400, 50
KEYS = pl.Series([f"k{item}" for item in range(ITEMS)])
NOTHING = Impairment(swapped=0.0, noise=0.0, seed=0)
#: Of unequal spread by dimension, far from the origin, and without the items 0 to 9.
FOUND = Vectors(
    (5 + np.random.default_rng(0).standard_normal((ITEMS, WIDTH)) * np.linspace(0, 3, WIDTH)).astype(np.float32),
    np.arange(ITEMS) >= 10,
)


def made(found=FOUND, *, modality="image", keys=KEYS, missing=0.0, **changes):
    """The vectors after the changes, and the counts."""
    impairment = NOTHING._replace(**changes)
    kept = remaining(keys, missing=missing, seed=impairment.seed, modality=modality)
    left = Vectors(found.vectors[kept], found.present[kept])  # an encoder would see no more
    return impaired(left, kept, impairment, keys=keys, modality=modality)


def absent(**changes):
    return set(np.flatnonzero(~made(**changes).vectors.present).tolist())


def test_nothing_asked_for_changes_no_bit():
    vectors, counts = made()
    assert vectors.vectors.tobytes() == FOUND.vectors.tobytes()
    assert vectors.present.tobytes() == FOUND.present.tobytes()
    assert counts == {}


def test_the_share_of_items_is_taken_away_and_the_others_keep_what_they_have():
    vectors, counts = made(missing=0.3)
    kept = remaining(KEYS, missing=0.3, seed=0, modality="image")
    assert counts == {"made_missing": 120}
    assert (~kept).sum() == 120
    np.testing.assert_array_equal(vectors.present, FOUND.present & kept)
    np.testing.assert_array_equal(vectors.vectors[kept], FOUND.vectors[kept])


def test_a_larger_share_holds_a_smaller_one_and_modalities_lose_independently():
    assert absent() < absent(missing=0.1) < absent(missing=0.3) < absent(missing=0.5)
    both = absent(missing=0.5) & absent(missing=0.5, modality="text")
    assert len(both) == pytest.approx(ITEMS / 4, abs=30)
    assert absent(missing=0.5, seed=1) != absent(missing=0.5) == absent(missing=0.5)


def test_noise_is_so_many_deviations_of_the_vectors_in_every_dimension():
    there = FOUND.vectors[FOUND.present]
    spread = np.sqrt(((there - there.mean(axis=0)) ** 2).mean())
    noise = made(noise=0.5).vectors.vectors - FOUND.vectors
    assert noise[FOUND.present].std() == pytest.approx(0.5 * spread, rel=0.02)
    assert noise[FOUND.present].std(axis=0) == pytest.approx(np.full(WIDTH, 0.5 * spread), rel=0.15)
    assert abs(noise.mean()) < 0.02 * spread
    np.testing.assert_allclose(made(noise=1.0).vectors.vectors - FOUND.vectors, 2 * noise, atol=1e-5)
    np.testing.assert_array_equal(made(noise=0.5).vectors.present, FOUND.present)


def test_noise_follows_from_seed_and_modality():
    usual, again, other_seed, other_modality = (
        made(noise=1.0, **changes).vectors.vectors for changes in ({}, {}, {"seed": 1}, {"modality": "text"})
    )
    np.testing.assert_array_equal(usual, again)
    for other in (other_seed, other_modality):
        correlation = np.corrcoef((usual - FOUND.vectors).ravel(), (other - FOUND.vectors).ravel())[0, 1]
        assert abs(correlation) < 0.05


def test_noise_on_vectors_that_are_all_alike_is_none():
    alike = Vectors(np.ones_like(FOUND.vectors), FOUND.present)
    np.testing.assert_array_equal(made(alike, noise=3.0).vectors.vectors, alike.vectors)


def test_swapped_items_have_the_vector_of_another_and_each_vector_stays():
    vectors, counts = made(swapped=0.2)
    moved = (vectors.vectors != FOUND.vectors).any(axis=1)
    assert counts == {"swapped": moved.sum()}
    assert 70 <= moved.sum() <= 80, "80 are drawn, and those that are absent have nothing to give"
    assert not moved[~FOUND.present].any()
    assert {row.tobytes() for row in vectors.vectors} == {row.tobytes() for row in FOUND.vectors}
    np.testing.assert_array_equal(vectors.present, FOUND.present)
    more = (made(swapped=0.5).vectors.vectors != FOUND.vectors).any(axis=1)
    assert (more | ~moved).all()


def test_an_item_alone_swaps_with_itself():
    alone = Vectors(FOUND.vectors, np.arange(ITEMS) == 10)
    np.testing.assert_array_equal(made(alone, swapped=1.0).vectors.vectors, FOUND.vectors)


def test_taking_all_away_is_refused():
    with pytest.raises(DataError, match=r"^text.missing = 0.99: expected an item to be left of 3$"):
        remaining(KEYS[:3], missing=0.99, seed=0, modality="text")
