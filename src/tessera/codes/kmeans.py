"""K-means on tensors, on whatever device they lie: the start of every codebook, and the whole of residual k-means.

Sums go through matrix products, which unlike scattered additions give the same bytes each time on a GPU too.
"""

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
    """Return M rows of points (S, d) drawn by k-means++ (Arthur and Vassilvitskii, 2007).

    Each has a chance in proportion to its squared distance from those drawn before it.
    """
    draws = torch.rand(size, generator=generator, dtype=torch.float64).to(points.device)
    squares = points.square().sum(1)
    distances = torch.full_like(squares, torch.inf)
    chosen = [(draws[0] * len(points)).long()]
    for draw in draws[1:]:
        last = points[chosen[-1]]
        to_last = torch.addmv(squares + last.square().sum(), points, last, alpha=-2)
        # Rounding leaves a point at some distance from itself; it must not be drawn again for that.
        distances = torch.minimum(distances, to_last.clamp(min=0)).index_fill(0, chosen[-1], 0)
        reach = distances.double().cumsum(0)
        pick = torch.searchsorted(reach, draw * reach[-1], right=True)
        chosen.append(pick.clamp(max=len(points) - 1))
    return points[torch.stack(chosen)]


def _means(points: Tensor, assigned: Tensor, centres: Tensor) -> Tensor:
    """Return the mean of each cluster's points; a cluster without any moves to one of the points farthest off."""
    sums, counts = torch.zeros_like(centres), centres.new_zeros(len(centres))
    distances = []
    for rows, clusters in _blocks(points, assigned, size=len(centres)):
        members = functional.one_hot(clusters, len(centres)).to(points.dtype)
        sums += members.T @ rows
        counts += members.sum(0)
        distances.append(_squared_distances(rows, functional.embedding(clusters, centres)))
    farthest = torch.cat(distances).topk(min(len(centres), len(points))).indices
    empty = counts == 0
    replacement = points[farthest[(empty.cumsum(0) - 1).clamp(min=0) % len(farthest)]]
    return torch.where(empty[:, None], replacement, sums / counts.clamp(min=1)[:, None])


def _assigned(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([nearest(rows, centres) for (rows,) in _blocks(points, size=len(centres))])


def _blocks(*tensors: Tensor, size: int) -> "zip[tuple[Tensor, ...]]":
    return zip(*(tensor.split(rows_in_block(size)) for tensor in tensors), strict=True)


def _squared_distances(points: Tensor, places: Tensor) -> Tensor:
    return (points - places).square().sum(-1)
