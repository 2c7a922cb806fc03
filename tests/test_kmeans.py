"""K-means on tensors against scikit-learn and against what its definition says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from tessera import kmeans as module
from tessera.kmeans import nearest

PLAIN = {"starts": 1, "iterations": 50, "tolerance": 0.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(*, count=5, each=40, width=3, seed=0):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(count, width)) * 20
    points = np.repeat(centres, each, axis=0) + draw.normal(size=(count * each, width))
    return torch.tensor(points[draw.permutation(len(points))], dtype=torch.float32)


def kmeans(points, *, size, seed=0, **changes):
    return module.kmeans(points, size=size, generator=generator(seed), **{**PLAIN, **changes})


def like_embeddings(*, items, width, categories, seed=0):
    """Points of a falling spectrum that fall into categories of unequal sizes, no two of them quite apart."""
    draw = np.random.default_rng(seed)
    shares = 1 / np.arange(1, categories + 1) ** 0.7
    of = draw.choice(categories, items, p=shares / shares.sum())
    points = draw.normal(size=(categories, width))[of] + draw.normal(size=(items, width))
    return torch.tensor(points / np.arange(1, width + 1) ** 0.5, dtype=torch.float32)


def inertia(points, centres):
    return float(torch.cdist(points, centres).square().min(1).values.sum())


def test_two_clusters_by_hand():
    found = kmeans(torch.tensor([[0.0], [1.0], [10.0], [12.0]]), size=2)
    assert sorted(found.centres.flatten().tolist()) == [0.5, 11.0]
    assert found.assigned[0] == found.assigned[1] != found.assigned[2] == found.assigned[3]
    assert found.inertia == pytest.approx(0.25 + 0.25 + 1 + 1)


def test_it_is_as_good_as_scikit_learn_where_clusters_are_apart():
    points = clusters()
    known = KMeans(5, n_init=10, random_state=0).fit(points.numpy())
    assert kmeans(points, size=5).inertia <= known.inertia_ * 1.001


@pytest.mark.parametrize(
    ("items", "width", "size"),
    [(1200, 20, 40), (800, 200, 50), (800, 1100, 50), (2500, 140, 20), (3000, 16, 24)],
)
def test_the_best_of_ten_is_as_good_as_scikit_learns(items, width, size):
    points = like_embeddings(items=items, width=width, categories=80)
    known = KMeans(size, n_init=10, random_state=0).fit(points.numpy())
    found = kmeans(points, size=size, starts=10, iterations=300, tolerance=5e-4)
    assert inertia(points, found.centres) == pytest.approx(found.inertia, rel=1e-4)
    assert found.inertia <= known.inertia_ * 1.01


def test_every_centre_is_the_mean_of_its_points():
    points = clusters(count=12)
    found = kmeans(points, size=7)
    assert torch.equal(torch.cdist(points, found.centres).argmin(1), found.assigned)
    means = torch.stack([points[found.assigned == number].mean(0) for number in range(7)])
    torch.testing.assert_close(found.centres, means, rtol=1e-4, atol=1e-4)


def test_more_starts_and_iterations_find_tighter_clusters():
    points = like_embeddings(items=2000, width=200, categories=100)
    hasty = kmeans(points, size=50, iterations=1)
    longer = kmeans(points, size=50)
    thorough = kmeans(points, size=50, starts=20)
    assert thorough.inertia < longer.inertia < hasty.inertia


def test_points_far_from_the_origin_keep_their_clusters():
    points = clusters(count=12)
    near, far = kmeans(points, size=12), kmeans(points + 3000, size=12)
    assert far.inertia == pytest.approx(near.inertia, rel=0.01)


def test_a_sketch_keeps_nearly_all_that_points_of_few_directions_have(monkeypatch):
    monkeypatch.setattr(module, "SKETCH_WIDTH", 100)
    narrow = like_embeddings(items=500, width=60, categories=20)
    basis = torch.linalg.qr(torch.randn(300, 60, generator=generator())).Q
    order = torch.randperm(500, generator=generator())
    sketch = module._sketch(narrow @ basis.T + 7, order, generator=generator())
    assert sketch.shape == (500, module.SKETCH_WIDTH)
    torch.testing.assert_close(torch.cdist(sketch, sketch), torch.cdist(narrow, narrow), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("width", [3, 200])
def test_blocks_do_not_change_the_result(monkeypatch, width):
    monkeypatch.setattr(module, "SKETCH_WIDTH", 90)
    points = clusters(width=width)
    whole = kmeans(points, size=5)
    monkeypatch.setattr(module, "BLOCK", 50)
    torch.testing.assert_close(kmeans(points, size=5).centres, whole.centres)


def test_means_by_hand():
    means = module._means(torch.tensor([[0.0, 2.0], [5.0, 5.0], [1.0, 4.0]]), torch.tensor([2, 0, 2]), size=3)
    assert means.tolist() == [[5.0, 5.0], [0.0, 0.0], [0.5, 3.0]]


def test_fewer_distinct_points_than_clusters_are_all_met():
    found = kmeans(torch.tensor([[0.0], [0.0], [5.0]]), size=4)
    assert found.centres.shape == (4, 1)
    assert set(found.centres.flatten().tolist()) == {0.0, 5.0}
    assert found.inertia == pytest.approx(0, abs=1e-5)


def test_an_empty_cluster_moves_to_the_point_farthest_off():
    points, centres = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [70.0]])
    found = module.Clusters(centres, torch.tensor([0, 0, 0]), 82.0)
    moved = module._without_empty(torch.tensor([[10 / 3], [0.0]]), points, found)
    assert moved.flatten().tolist() == pytest.approx([10 / 3, 9.0])


def test_the_same_generator_gives_the_same_centres_and_another_one_others(monkeypatch):
    monkeypatch.setattr(module, "SKETCH_WIDTH", 70)
    points = like_embeddings(items=3000, width=150, categories=80)
    one, same, other = (kmeans(points, size=20, starts=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.centres, same.centres)
    assert torch.equal(one.assigned, same.assigned)
    assert not torch.equal(one.centres, other.centres)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 9), st.integers(1, 4))
def test_nearest_is_the_nearest(seed, points, places, width):
    draw = torch.Generator().manual_seed(seed)
    p, q = torch.randn(points, width, generator=draw), torch.randn(places, width, generator=draw)
    chosen = (p - q[nearest(p, q)]).square().sum(1)
    closest = (p[:, None] - q[None]).square().sum(2).min(1).values
    torch.testing.assert_close(chosen, closest)


def test_nearest_is_the_first_of_equals():
    assert nearest(torch.tensor([[0.0]]), torch.tensor([[1.0], [-1.0], [1.0]])).tolist() == [0]
