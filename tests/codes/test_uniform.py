"""Uniform codes: the plan of the transport, against the slow obvious iterations, and what is chosen by it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.codes.uniform import PUBLISHED, Sinkhorn, shared_out, transport_plan, uniform_codes
from tessera.kmeans import nearest


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_plan(costs, epsilon, iterations):
    """Sinkhorn and Knopp's scaling of exp(-cost / epsilon), entry by entry in double precision."""
    plan = [[math.exp(-float(cost) / epsilon) for cost in row] for row in costs]
    points, places = len(plan), len(plan[0])
    for _ in range(iterations):
        for row in plan:
            total = sum(row)
            row[:] = [share / total for share in row]
        for place in range(places):
            total = sum(row[place] for row in plan)
            for row in plan:
                row[place] *= points / places / total
    return torch.tensor(plan)


def slow_costs(points, places):
    distances = [[sum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True)) for q in places] for p in points]
    least, most = min(map(min, distances)), max(map(max, distances))
    return [[(distance - (most + least) / 2) / ((most - least) / 2) for distance in row] for row in distances]


def test_two_points_that_want_one_place_by_hand():
    # The first is nearer to place 0 by 2, the second by 1 only: it gives way.
    codes = uniform_codes(torch.tensor([[0.0], [0.4]]), torch.tensor([[0.0], [1.0]]), sinkhorn=Sinkhorn(0.1, 50))
    assert codes.tolist() == [0, 1]


def test_alike_points_share_alike_places_evenly():
    plan = transport_plan(torch.zeros(4, 2), sinkhorn=PUBLISHED)
    assert plan.tolist() == [[0.5, 0.5]] * 4


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 7), st.floats(0.05, 2.0), st.integers(0, 2**31))
def test_rows_and_columns_have_equal_sums(points, places, epsilon, seed):
    costs = torch.rand(points, places, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    plan = transport_plan(costs, sinkhorn=Sinkhorn(epsilon, 2000))
    torch.testing.assert_close(plan.sum(0), torch.full((places,), points / places), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plan.sum(1), torch.ones(points), atol=1e-2, rtol=1e-2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 6), st.floats(0.01, 1.0), st.integers(1, 20), st.integers(0, 2**31))
def test_the_plan_equals_slow_iterations(points, places, epsilon, iterations, seed):
    costs = torch.rand(points, places, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    found = transport_plan(costs, sinkhorn=Sinkhorn(epsilon, iterations))
    torch.testing.assert_close(found, slow_plan(costs, epsilon, iterations), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_codes_equal_those_of_slow_iterations_whatever_the_scale(scale):
    points, places = random(24, 3) * scale, random(6, 3, seed=1) * scale
    found = uniform_codes(points, places, sinkhorn=Sinkhorn(0.02, 50))
    assert found.tolist() == slow_plan(slow_costs(points, places), 0.02, 50).argmax(1).tolist()


def test_the_published_epsilon_keeps_single_precision_finite_and_spreads_a_crowd():
    points, places = random(512, 4) * 0.05, random(32, 4, seed=1)
    crowded = torch.bincount(nearest(points, places), minlength=32)
    spread = torch.bincount(uniform_codes(points, places, sinkhorn=PUBLISHED), minlength=32)
    assert crowded.max() > 5 * 16
    assert spread.max() <= 3 * 16
    assert spread.min() > 0


def test_batches_beside_each_other_do_not_meet():
    points, places = random(5, 12, 3), random(4, 3, seed=1)
    together = uniform_codes(points, places, sinkhorn=PUBLISHED)
    assert torch.equal(together, torch.stack([uniform_codes(part, places, sinkhorn=PUBLISHED) for part in points]))


def test_places_are_shared_out_by_hand():
    # Place 1 lies nearest to both; it goes to the second, which is nearer, and the first takes the next on its side.
    points, places = torch.tensor([[0.8], [1.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    assert shared_out(points, places, sinkhorn=PUBLISHED).tolist() == [0, 1]


def test_the_second_of_equal_points_has_no_place():
    assert shared_out(torch.ones(3, 2), torch.eye(2) * 2, sinkhorn=PUBLISHED).tolist() == [0, -1, -1]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**31))
def test_nobody_shares_a_place_and_each_has_its_nearest_own(points, more, seed):
    draw = torch.Generator().manual_seed(seed)
    p, q = torch.randn(points, 3, generator=draw), torch.randn(points + more, 3, generator=draw)
    found = shared_out(p, q, sinkhorn=PUBLISHED).tolist()
    taken = [place for place in found if place >= 0]
    assert len(set(taken)) == len(taken)
    costs = torch.tensor(slow_costs(p, q))
    owners = transport_plan(costs, sinkhorn=PUBLISHED).argmax(0).tolist()
    for point, place in enumerate(found):
        own = [number for number, owner in enumerate(owners) if owner == point]
        assert place == (min(own, key=lambda number: float(costs[point, number])) if own else -1)


def test_equal_distances_are_no_trouble():
    assert uniform_codes(torch.zeros(3, 2), torch.zeros(4, 2), sinkhorn=PUBLISHED).tolist() == [0, 0, 0]


def test_no_gradient_passes():
    points = random(6, 2).requires_grad_()
    assert not uniform_codes(points, random(3, 2), sinkhorn=PUBLISHED).requires_grad
    assert np.isfinite(points.detach().numpy()).all()
