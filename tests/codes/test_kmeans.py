"""K-means on tensors against scikit-learn and against what its definition says."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from tessera.codes import kmeans as module
from tessera.codes.kmeans import kmeans, residual_kmeans


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(*, count=5, each=40, width=3, seed=0):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(count, width)) * 20
    points = np.repeat(centres, each, axis=0) + draw.normal(size=(count * each, width))
    return torch.tensor(points[draw.permutation(len(points))], dtype=torch.float32)


def inertia(points, centres):
    return float(torch.cdist(points, centres).square().min(1).values.sum())


def test_two_clusters_by_hand():
    found = kmeans(torch.tensor([[0.0], [1.0], [10.0], [12.0]]), size=2, generator=generator())
    assert sorted(found.flatten().tolist()) == [0.5, 11.0]


def test_it_is_as_good_as_scikit_learn():
    points = clusters()
    known = KMeans(5, n_init=10, random_state=0).fit(points.numpy())
    assert inertia(points, kmeans(points, size=5, generator=generator())) <= known.inertia_ * 1.001


def test_every_centre_is_the_mean_of_its_points():
    points = clusters(count=12)
    centres = kmeans(points, size=7, generator=generator())
    nearest = torch.cdist(points, centres).argmin(1)
    means = torch.stack([points[nearest == number].mean(0) for number in range(7)])
    torch.testing.assert_close(centres, means, rtol=1e-4, atol=1e-4)


def test_blocks_do_not_change_the_result(monkeypatch):
    points = clusters()
    whole = kmeans(points, size=5, generator=generator())
    monkeypatch.setattr(module, "rows_in_block", lambda _: 7)
    torch.testing.assert_close(kmeans(points, size=5, generator=generator()), whole)


def test_fewer_distinct_points_than_clusters_are_all_met():
    points = torch.tensor([[0.0], [0.0], [5.0]])
    centres = kmeans(points, size=4, generator=generator())
    assert centres.shape == (4, 1)
    assert set(centres.flatten().tolist()) == {0.0, 5.0}


def test_an_empty_cluster_moves_to_the_point_farthest_off():
    points = torch.tensor([[0.0], [1.0], [9.0]])
    moved = module._means(points, torch.tensor([0, 0, 0]), torch.tensor([[0.0], [70.0]]))
    assert moved.flatten().tolist() == pytest.approx([10 / 3, 9.0])


def test_the_same_generator_gives_the_same_centres_and_another_one_others():
    points = clusters(count=30)
    assert torch.equal(kmeans(points, size=9, generator=generator()), kmeans(points, size=9, generator=generator()))
    assert not torch.equal(
        kmeans(points, size=9, generator=generator()), kmeans(points, size=9, generator=generator(1))
    )


def test_each_level_clusters_what_the_one_before_left():
    points = clusters(count=12)
    codebooks = residual_kmeans(points, levels=3, size=4, generator=generator())
    assert codebooks.shape == (3, 4, 3)
    left, errors = points, []
    for centres in codebooks:
        nearest = torch.cdist(left, centres).argmin(1)
        means = torch.stack([left[nearest == number].mean(0) for number in range(4)])
        torch.testing.assert_close(centres, means, rtol=1e-3, atol=1e-3)
        left = left - centres[nearest]
        errors.append(float(left.square().sum()))
    assert errors[0] > errors[1] > errors[2]
