"""K-means on tensors, on whatever device they lie: pseudo-labels, the start of every codebook, all of residual k-means.

Most of the way is gone where it is cheap. Seeds and first iterations see a sketch of the points, their shares in the
directions in which they differ most, and a bounded sample of it; the best of several starts is chosen there. Only the
iterations that then settle the centres see every point in its full width.

Every sum is made in one order, so that the same points give the same bytes each time, on a GPU too.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tessera.products import linear

#: Directions that a sketch keeps, points that they are found from, and rounds of finding them. Fewer directions cost
#: inertia: with 128 of 4,096, the start that looks best in the sketch ended 1.6 % above one in full width.
SKETCH_WIDTH = 512
SKETCH_POINTS = 8192
SKETCH_ROUNDS = 3

#: Points for each cluster that seeds are drawn from, and that the first iterations see: more of them do not make the
#: starts better, only dearer.
SEED_POINTS = 32
START_POINTS = 64

#: Distances computed at one time: 4 MiB of floats, which a processor's cache holds.
BLOCK = 2**20


class Clusters(NamedTuple):
    """M clusters of S points."""

    centres: Tensor  # (M, D)
    assigned: Tensor  # (S,) the cluster whose centre is nearest
    inertia: float  # the sum of the squared distances from it


def kmeans(
    points: Tensor, *, size: int, starts: int, iterations: int, tolerance: float, generator: torch.Generator
) -> Clusters:
    """Return M = size clusters of points (S, D): k-means++, the best of so many starts, and Lloyd's iterations.

    There are at most `iterations` of these on the sample, on the sketch and on the points; each of the three ends as
    soon as one gains no more than `tolerance` of the inertia. Where points have fewer distinct rows than M, the
    surplus centres repeat some of the others. `generator` belongs to the CPU.
    """
    order = torch.randperm(len(points), generator=generator).to(points.device)
    sketch = _sketch(points, order, generator=generator)
    sample = sketch if len(sketch) <= START_POINTS * size else sketch[order[: START_POINTS * size]]
    seeds = _spread(sketch[order[: SEED_POINTS * size]], size=size, starts=starts, generator=generator)
    settled = partial(_settled, iterations=iterations, tolerance=tolerance)
    found = min((settled(sample, centres) for centres in seeds), key=lambda one: one.inertia)
    if sample is not sketch:
        found = settled(sketch, found.centres)
    if sketch is not points:
        found = settled(points, _means(points, found.assigned, size=size))
    return found


def nearest(points: Tensor, places: Tensor) -> Tensor:
    """Return for each of points (B, d) the index (B,) of the nearest of places (M, d); the first one of equals."""
    return gaps(points, places).argmin(1)


def gaps(points: Tensor, places: Tensor) -> Tensor:
    """Return the squared distances (B, M) of points (B, d) from places (M, d), less each point's own square."""
    return linear(points, -2 * places, places.square().sum(1))


def _sketch(points: Tensor, order: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return points (S, D) in about the SKETCH_WIDTH directions of most variance; up to twice as wide ones as they are.

    The directions are those of the first points of a random order (S,), found by subspace iteration (Halko,
    Martinsson and Tropp, 2011, algorithm 4.4).
    """
    width = points.shape[1]
    if width <= 2 * SKETCH_WIDTH:
        return points
    sample = points[order[:SKETCH_POINTS]]
    mean = sample.mean(0)
    sample = sample - mean
    directions = torch.randn(width, SKETCH_WIDTH, generator=generator).to(points)
    for _ in range(SKETCH_ROUNDS):
        shares = linear(sample, directions.T)  # (SKETCH_POINTS, SKETCH_WIDTH)
        directions = torch.linalg.qr(linear(shares.T, sample.T).T).Q  # (D, SKETCH_WIDTH)
    return linear(points, directions.T) - mean @ directions


def _spread(points: Tensor, *, size: int, starts: int, generator: torch.Generator) -> Tensor:
    """Return for each of R starts M of the points (S, d), drawn by greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Each is the best of a few, 2 + log M of them as in scikit-learn, which have a chance to be drawn in proportion to
    their squared distance from the rows before. All starts take their next row at once: (R, M, d).
    """
    trials = 2 + int(math.log(size))
    draws = torch.rand(size, starts, trials, generator=generator, dtype=torch.float64)
    squares = points.square().sum(1)
    every = torch.arange(starts, device=points.device)
    chosen = [(draws[0, :, 0] * len(points)).long().to(points.device)]
    distances = _from(chosen[0], points, squares)  # (R, S)
    for draw in draws[1:]:
        reach = distances.double().cpu().cumsum(1)  # on a GPU the last bits of a running sum differ from run to run
        picks = torch.searchsorted(reach, draw * reach[:, -1:], right=True).clamp(max=len(points) - 1).to(points.device)
        nearer = _from(picks.flatten(), points, squares).view(starts, trials, -1)
        nearer = torch.minimum(nearer, distances[:, None], out=nearer)  # (R, trials, S)
        best = nearer.sum(2).argmin(1)
        distances = nearer[every, best]
        chosen.append(picks[every, best])
    return points[torch.stack(chosen, 1)]


def _from(picks: Tensor, points: Tensor, squares: Tensor) -> Tensor:
    """Return the squared distances (C, S) from the points that picks (C,) names to all points (S, d).

    Their squared lengths are squares (S,).
    """
    distances = linear(-2 * points[picks], points, squares).add_(squares[picks, None]).clamp_(min=0)
    # Rounding leaves a point at some distance from itself; it must not be drawn again for that.
    return distances.scatter_(1, picks[:, None], 0)


def _settled(points: Tensor, centres: Tensor, *, iterations: int, tolerance: float) -> Clusters:
    """Return the clusters of points (S, D) that Lloyd's iterations reach from centres (M, D)."""
    mean = points.mean(0)
    spread = sum(float((rows - mean).square().sum(dtype=torch.float64)) for rows in points.split(_rows(points)))
    found = _around(points, centres, mean=mean, spread=spread)
    for _ in range(iterations):
        means = _without_empty(_means(points, found.assigned, size=len(centres)), points, found)
        before, found = found, _around(points, means, mean=mean, spread=spread)
        if before.inertia - found.inertia <= tolerance * found.inertia:
            break
    return found


def _around(points: Tensor, centres: Tensor, *, mean: Tensor, spread: float) -> Clusters:
    """Return the clusters of points (S, D) around centres (M, D), given the points' mean (D,) and the spread about it.

    Distances are counted from the mean, |p - c|^2 = |p - m|^2 + |c - m|^2 - 2 (p - m)(c - m), of which the first part
    is known and all else is one product: points far from the origin keep their digits.
    """
    shifted = centres - mean
    offsets = (shifted * (centres + mean)).sum(1)
    parts = [linear(rows, -2 * shifted, offsets).min(1) for rows in points.split(_rows(centres.T))]
    values, assigned = (torch.cat(part) for part in zip(*parts, strict=True))
    return Clusters(centres, assigned, spread + float(values.sum(dtype=torch.float64)))


def _means(points: Tensor, assigned: Tensor, *, size: int) -> Tensor:
    """Return the means (M, D) of the points (S, D) assigned (S,) to each cluster; 0 of none."""
    order, counts = torch.argsort(assigned, stable=True), torch.bincount(assigned, minlength=size)
    return functional.embedding_bag(order, points, counts.cumsum(0) - counts, mode="mean")


def _without_empty(means: Tensor, points: Tensor, found: Clusters) -> Tensor:
    """Return means (M, D) with each one that found gives no point moved to one of the points (S, D) farthest off."""
    empty = torch.bincount(found.assigned, minlength=len(means)) == 0
    if not empty.any():
        return means
    parts = zip(points.split(_rows(points)), found.assigned.split(_rows(points)), strict=True)
    distances = torch.cat([(rows - found.centres[own]).square().sum(1) for rows, own in parts])
    farthest = distances.topk(min(len(means), len(points))).indices
    return torch.where(empty[:, None], points[farthest[(empty.cumsum(0) - 1) % len(farthest)]], means)


def _rows(matrix: Tensor) -> int:
    """Return how many rows as wide as those of matrix a block holds; at least one."""
    return max(1, BLOCK // matrix.shape[1])
