"""Codes that are used evenly: each point takes a place near it, and every place about as many points.

The uniform semantic mapping of LC-Rec (arXiv 2311.09049, section "Item indexing"): the last level's codes q(c = k | r)
of a batch of residuals minimise the sum of q |r - e_k|^2 while every item's q sums to 1 and every code's to B / M.
That is optimal transport, which Sinkhorn and Knopp's iterations solve where its entropy weighs epsilon (Cuturi,
arXiv 1306.0895); an item takes the code of its largest share. Published: the problem, and in the released code
epsilon 0.003, 50 iterations, batches of 1,024, and squared distances that are first shifted and scaled to [-1, 1] over
the batch, to which epsilon is relative. The marginals are those of the batch: items that begin alike are spread as far
as they meet in one.

The released code scales exp(-cost / epsilon) itself, which needs double precision. Here the factors are kept as
logarithms, so that no share is above the larger of 1 and B / M, and single precision does.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tessera.kmeans import gaps

#: Half the range of distances that is told from none.
NARROWEST = 1e-5

#: The least logarithm of a share. Below it single precision has no normal numbers, and processors are slow at others;
#: a row or column of nothing but such shares comes nearer to its sum by as much in each iteration.
LEAST = -80.0


class Sinkhorn(NamedTuple):
    """How uniform codes are found."""

    epsilon: float  # the weight of the entropy; the smaller, the nearer the places and the less even after all steps
    iterations: int


#: What LC-Rec's released code sets.
PUBLISHED = Sinkhorn(epsilon=0.003, iterations=50)


def transport_plan(costs: Tensor, *, sinkhorn: Sinkhorn) -> Tensor:
    """Return shares (..., B, M) of points in places: rows sum to about 1 and columns to B / M.

    costs (..., B, M) are small where a point is to go. Columns are scaled last, so theirs are the exact sums.
    """
    even = math.log(costs.shape[-2] / costs.shape[-1])
    scores, plan = costs / -sinkhorn.epsilon, torch.empty_like(costs)
    by_point, by_place = -scores.amax(-1, keepdim=True), torch.zeros_like(scores[..., :1, :])

    def shares() -> Tensor:
        return torch.add(scores, by_point, out=plan).add_(by_place).clamp_(min=LEAST).exp_()

    for _ in range(sinkhorn.iterations):
        by_point -= shares().sum(-1, keepdim=True).log_()
        by_place -= shares().sum(-2, keepdim=True).log_() - even
    return shares()


@torch.no_grad()
def uniform_codes(points: Tensor, places: Tensor, *, sinkhorn: Sinkhorn) -> Tensor:
    """Return for each of points (..., B, d) a place, as its index (..., B): each of places (M, d) about equally often.

    Leading dimensions are batches of their own.
    """
    return transport_plan(_costs(points, places), sinkhorn=sinkhorn).argmax(-1)


@torch.no_grad()
def shared_out(points: Tensor, places: Tensor, *, sinkhorn: Sinkhorn) -> Tensor:
    """Return for each of points (..., B, d) a place, as its index (..., B): one of places (M, d) that no other takes.

    A place belongs to the point with the largest share of it; a point takes the nearest that is its own, or -1 where it
    has none, as the second of two equal points. The released code takes a point's own largest share. Where places
    outnumber points, that is one of many equal ones, which differ by their rounding and say nothing of what is near.
    """
    costs = _costs(points, places)
    owners = transport_plan(costs, sinkhorn=sinkhorn).argmax(-2, keepdim=True)  # (..., 1, M)
    own = owners == torch.arange(points.shape[-2], device=points.device)[:, None]  # (..., B, M)
    return torch.where(own.any(-1), costs.masked_fill(~own, torch.inf).argmin(-1), -1)


def _costs(points: Tensor, places: Tensor) -> Tensor:
    """Return the squared distances (..., B, M) of points (..., B, d) from places (M, d), brought to [-1, 1]."""
    distances = gaps(points.flatten(0, -2), places).view(*points.shape[:-1], -1) + points.square().sum(-1, keepdim=True)
    least, most = distances.amin((-2, -1), keepdim=True), distances.amax((-2, -1), keepdim=True)
    return (distances - (most + least) / 2) / ((most - least) / 2).clamp(min=NARROWEST)
