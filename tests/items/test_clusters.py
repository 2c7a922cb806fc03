import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from tessera.errors import DataError
from tessera.items.clusters import cluster, cluster_metrics, label_items

PLAIN = {"clusters": 2, "initialisations": 3, "iterations": 20, "seed": 0}


@pytest.fixture
def cloud():
    return np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)


def test_what_lies_together_gets_one_label():
    labels = cluster(np.float32([[0, 0], [9, 9], [0, 1], [9, 8]]), **PLAIN)
    assert labels[0] == labels[2] != labels[1] == labels[3]


def test_clusters_are_those_of_plain_lloyd_iterations(cloud):
    """At the end every vector is nearest to the mean of its own cluster."""
    labels = cluster(cloud, clusters=5, initialisations=2, iterations=300, seed=1)
    means = np.stack([cloud[labels == label].mean(axis=0) for label in range(5)])
    distances = ((cloud[:, np.newaxis] - means) ** 2).sum(axis=2)
    assert np.array_equal(distances.argmin(axis=1), labels)


def inertia(vectors, labels):
    return sum(((vectors[labels == label] - vectors[labels == label].mean(axis=0)) ** 2).sum() for label in set(labels))


def test_more_initialisations_and_iterations_find_tighter_clusters(cloud):
    hasty = cluster(cloud, clusters=8, initialisations=1, iterations=1, seed=1)
    longer = cluster(cloud, clusters=8, initialisations=1, iterations=100, seed=1)
    thorough = cluster(cloud, clusters=8, initialisations=30, iterations=100, seed=1)
    assert inertia(cloud, thorough) < inertia(cloud, longer) < inertia(cloud, hasty)


def test_the_seed_and_nothing_else_decides(cloud):
    first, second, other = (cluster(cloud, **{**PLAIN, "clusters": 8, "seed": seed}) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def items(present):
    return pl.DataFrame(
        {"item": range(len(present)), "present": present}, schema={"item": pl.UInt32, "present": pl.Boolean}
    )


def column(*numbers):
    return np.array(numbers, np.float32)[:, np.newaxis]


def test_absent_items_have_no_label():
    shop = items([True, False, True, True, True])
    labels = label_items(shop, column(0, 1, 9, 10), modality="text", **PLAIN)
    zero, none, one, nine, ten = labels["label"]
    assert labels["item"].to_list() == [0, 1, 2, 3, 4]
    assert labels["modality"].unique().to_list() == ["text"]
    assert none is None
    assert zero == one != nine == ten


def test_as_many_clusters_as_items_are_fine_and_one_more_is_an_error():
    shop, vectors = items([True, True, False]), column(0, 1)
    assert set(label_items(shop, vectors, modality="image", **PLAIN)["label"].drop_nulls()) == {0, 1}
    expected = r"^image: expected pseudo.clusters = 3 .* items that have the modality, found 2 such items of 3$"
    with pytest.raises(DataError, match=expected):
        label_items(shop, vectors, modality="image", **{**PLAIN, "clusters": 3})


def test_no_vectors_at_all_are_an_error():
    with pytest.raises(DataError, match=r"^text: expected pseudo.clusters = 2 .* found 0 such items of 0$"):
        label_items(items([]), np.empty((0, 4), np.float32), modality="text", **PLAIN)


def test_broken_vectors_are_an_error():
    with pytest.raises(DataError, match=r"^text: expected finite vectors, found 2 items with NaN or infinity$"):
        label_items(items([True] * 3), column(0, np.nan, np.inf), modality="text", **PLAIN)


def test_equal_vectors_leave_labels_unused():
    vectors = np.ones((4, 2), np.float32)
    labels = cluster(vectors, **PLAIN)
    assert cluster_metrics(vectors, labels) == {"inertia_per_item": 0, "clusters_used": 1, "smallest": 4, "largest": 4}


def test_metrics_worked_by_hand():
    """Items 0 and 2 are each 1 from their mean, and item 10 is its own mean."""
    assert cluster_metrics(column(0, 10, 2), np.array([4, 1, 4])) == {
        "inertia_per_item": pytest.approx(2 / 3),
        "clusters_used": 2,
        "smallest": 1,
        "largest": 2,
    }


def test_the_module_loads_without_torch():
    check = "import sys, tessera.items.clusters; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
