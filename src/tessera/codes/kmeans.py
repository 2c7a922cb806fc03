"""K-means on tensors, on whatever device they lie: the start of every codebook, and the whole of residual k-means.

Sums go through matrix products, which unlike scattered additions give the same bytes each time on a GPU too.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tessera.codes.quantizer import nearest, rows_in_block

#: Lloyd's iterations at most; they end as soon as no point changes its cluster.
ITERATIONS = 50

#: More points than this for each cluster do not make the centres better, only dearer (the bound that Faiss uses).
POINTS_PER_CLUSTER = 256


def residual_kmeans(points: Tensor, *, levels: int, size: int, generator: torch.Generator) -> Tensor:
    """Return codebooks (L, M, d): the k-means of points (S, d), that of what remains of them, and so on."""
    codebooks = []
    for _ in range(levels):
        centres = kmeans(points, size=size, generator=generator)
        points = points - functional.embedding(_assigned(points, centres), centres)
        codebooks.append(centres)
    return torch.stack(codebooks)


def kmeans(points: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """Return the centres (M, d) of M = size clusters of points (S, d), by k-means++ and Lloyd's iterations.

    Where points have fewer distinct rows than M, the surplus centres repeat some of the others.
    """
    centres = _spread(points, size=size, generator=generator)
    assigned = None
    for _ in range(ITERATIONS):
        previous, assigned = assigned, _assigned(points, centres)
        if previous is not None and torch.equal(previous, assigned):
            break
        centres = _means(points, assigned, centres)
    return centres


def _spread(points: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """Return M rows of points (S, d) drawn by greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Each is the best of a few, 2 + log M of them as in scikit-learn, which have a chance to be drawn in proportion to
    their squared distance from the rows before.
    """
    trials = 2 + int(math.log(size))
    draws = torch.rand(size, trials, generator=generator, dtype=torch.float64)
    squares = points.square().sum(1, keepdim=True)  # (S, 1)
    chosen = [(draws[0, 0] * len(points)).long().to(points.device)]
    distances = _to_candidates(points, squares, chosen[0][None]).squeeze(1)
    for draw in draws[1:]:
        reach = distances.double().cpu().cumsum(0)  # on a GPU the last bits of a running sum differ from run to run
        picks = torch.searchsorted(reach, draw * reach[-1], right=True).clamp(max=len(points) - 1).to(points.device)
        nearer = torch.minimum(distances[:, None], _to_candidates(points, squares, picks))  # (S, trials)
        best = nearer.sum(0).argmin()
        distances = nearer[:, best]
        chosen.append(picks[best])
    return points[torch.stack(chosen)]


def _to_candidates(points: Tensor, squares: Tensor, picks: Tensor) -> Tensor:
    """Return the squared distances (S, C) of points (S, d) from those of them that picks (C,) names."""
    distances = torch.addmm(squares + squares[picks].T, points, points[picks].T, alpha=-2).clamp(min=0)
    # Rounding leaves a point at some distance from itself; it must not be drawn again for that.
    return distances.scatter(0, picks[None], 0)


def _means(points: Tensor, assigned: Tensor, centres: Tensor) -> Tensor:
    """Return the mean of each cluster's points; a cluster without any moves to one of the points farthest off."""
    sums, counts = torch.zeros_like(centres), centres.new_zeros(len(centres))
    for rows, clusters in _blocks(points, assigned, size=len(centres)):
        members = functional.one_hot(clusters, len(centres)).to(points.dtype)
        sums += members.T @ rows
        counts += members.sum(0)
    means, empty = sums / counts.clamp(min=1)[:, None], counts == 0
    if not empty.any():
        return means
    distances = torch.cat(
        [
            (rows - functional.embedding(clusters, centres)).square().sum(1)
            for rows, clusters in _blocks(points, assigned, size=len(centres))
        ]
    )
    farthest = distances.topk(min(len(centres), len(points))).indices
    return torch.where(empty[:, None], points[farthest[(empty.cumsum(0) - 1) % len(farthest)]], means)


def _assigned(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([nearest(rows, centres) for (rows,) in _blocks(points, size=len(centres))])


def _blocks(*tensors: Tensor, size: int) -> "zip[tuple[Tensor, ...]]":
    return zip(*(tensor.split(rows_in_block(size)) for tensor in tensors), strict=True)
