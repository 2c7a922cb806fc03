"""Residual quantisation: a vector as a sum of codes, one of each level, and the codebooks that these come from.

Of this there is one in the project, whatever learns the vectors: the quantizer of modalities, whose codes are of an
encoder's latents, and the self-distillation of pictures, whose codes are of what a vision transformer sees.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tessera.kmeans import kmeans, nearest

#: Chooses for each of some residuals (B, d) one of the codes (M, d) of a level, as its index (B,).
Assignment = Callable[[Tensor, Tensor], Tensor]

#: Lloyd's iterations at most.
ITERATIONS = 50


class Steps(NamedTuple):
    """What became of a batch of vectors, level by level."""

    codes: Tensor  # (B, L) int64
    residuals: Tensor  # (L, B, d): what each level had to quantise
    code_vectors: Tensor  # (L, B, d): what each level chose for it


def quantise(points: Tensor, codebooks: Tensor, *, last: Assignment = nearest) -> Steps:
    """Return what codebooks (L, M, d) make of points (B, d).

    r_0 = z, c_l = the code nearest to r_l, r_{l+1} = r_l - e_{l, c_l} (TIGER, arXiv 2305.05065, section 3.1). At the
    last level a training may choose codes in another way. The code that a residual loses is detached.
    """
    codes, residuals, code_vectors = [], [points], []
    for level, codebook in enumerate(codebooks, start=1):
        assign = last if level == len(codebooks) else nearest
        codes.append(assign(residuals[-1].detach(), codebook.detach()))
        code_vectors.append(functional.embedding(codes[-1], codebook))
        residuals.append(residuals[-1] - code_vectors[-1].detach())
    return Steps(torch.stack(codes, 1), torch.stack(residuals[:-1]), torch.stack(code_vectors))


def summed(points: Tensor, code_vectors: Tensor) -> Tensor:
    """Return the sums (B, d) of code vectors (L, B, d), whose gradient goes straight through to points (B, d)."""
    return points + (code_vectors.sum(0) - points).detach()


def quantization_loss(residuals: Tensor, code_vectors: Tensor, *, alpha: float) -> Tensor:
    """Return L_rq per level (L,): |sg[r_l] - e|^2 + alpha |r_l - sg[e]|^2, of residuals and codes (L, B, d).

    The first term moves the codes, the second the encoder (VQ-VAE, arXiv 1711.00937, equation 3).
    """
    codebook = (residuals.detach() - code_vectors).square().sum(-1).mean(-1)
    commitment = (residuals - code_vectors.detach()).square().sum(-1).mean(-1)
    return codebook + alpha * commitment


def residual_kmeans(points: Tensor, *, levels: int, size: int, generator: torch.Generator) -> Tensor:
    """Return codebooks (L, M, d): the k-means of points (S, d), that of what remains of them, and so on."""
    codebooks = []
    for _ in range(levels):
        found = kmeans(points, size=size, starts=1, iterations=ITERATIONS, tolerance=0.0, generator=generator)
        points = points - found.centres[found.assigned]
        codebooks.append(found.centres)
    return torch.stack(codebooks)


def dead_codes(unused: Tensor, used: Tensor, *, limit: int) -> Tensor:
    """Count in unused (L, M) one more epoch for the codes not used (L, M); return those (L, M) that reach the limit.

    Their count starts anew. With a limit of 0 no code is ever dead.
    """
    unused.add_(1).masked_fill_(used, 0)
    dead = (unused >= limit) & (limit > 0)
    unused.masked_fill_(dead, 0)
    return dead


@torch.no_grad()
def replace_codes(codebooks: Tensor, dead: Tensor, residuals: Tensor, *, generator: torch.Generator) -> None:
    """Put each dead code (L, M) of codebooks (L, M, d) on the residual, at its level, of one of residuals (L, B, d).

    Which one is drawn at random. `generator` belongs to the CPU.
    """
    order = torch.randperm(residuals.shape[1], generator=generator)
    drawn = order[torch.arange(codebooks.shape[1]) % len(order)].to(residuals.device)  # (M,)
    codebooks.copy_(torch.where(dead[..., None], residuals[:, drawn], codebooks))
