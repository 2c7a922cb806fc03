"""The losses of the cross-modal quantizer (MACRec, arXiv 2511.15122).

    L_ID = sum over modalities of (L_rq + L_recon) + lambda_con * sum over levels of L_con^l + lambda_align * L_align

Conventions, since the paper's weights are relative to them: as the paper writes it, a squared norm is the *sum* over
features, and levels, modalities and directions are summed too; items are averaged. (The released code averages over
features, which makes lambda_con and lambda_align weigh D times as much: measured, the contrast then wins over the
reconstruction and the codebooks collapse.) Vectors have unit mean square per feature (see `ModalityQuantizer`), so
L_recon / D is the share of their variance that the codes do not explain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tessera.codes.quantizer import Quantized

Similarity = Literal["cosine", "inner"]

#: The label of an item that lacks the modality.
ABSENT = -1

#: Shorter vectors are not scaled up to unit length: a residual that its code meets exactly has no direction, and a
#: gradient through its length would be without bound.
SHORTEST = 1e-3

#: Stands for minus infinity: a row without any candidate would have gradients of nan.
_LOWEST = -1e30

#: What cross_entropy leaves out.
_IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """The weights and choices of L_ID, named as in params.yaml."""

    alpha: float
    lambda_con: float
    con_start_level: int
    lambda_align: float
    temperature: float
    similarity: Similarity


class Losses(NamedTuple):
    """L_ID of a batch and everything that went into it, unweighted, by name."""

    total: Tensor  # ()
    terms: dict[str, Tensor]  # name -> (), detached


def identifier_loss(
    quantized: Mapping[str, Quantized],
    labels: Mapping[str, Tensor],
    draws: Mapping[tuple[str, str], Tensor],
    *,
    objective: Objective,
) -> Losses:
    """Return L_ID of a batch whose items have the labels (B,) in each modality, ABSENT where they lack it.

    `draws` holds, for each ordered pair of modalities, uniform numbers (B,) in [0, 1) that choose the positives.
    Terms of weight 0 are not computed; the sums `rq`, `recon`, `con` and `align` are always there.
    """
    rq = {m: quantization_loss(q.residuals, q.code_vectors, alpha=objective.alpha) for m, q in quantized.items()}
    recon = {m: reconstruction_loss(q.scaled, q.reconstruction) for m, q in quantized.items()}
    con, shares = _contrasts(quantized, labels, draws, objective=objective)
    align = _alignments(quantized, labels, objective=objective)
    zero = torch.zeros((), device=next(iter(recon.values())).device)
    sums = {
        name: torch.stack([part.sum() for part in parts.values()]).sum() if parts else zero
        for name, parts in (("rq", rq), ("recon", recon), ("con", con), ("align", align))
    }
    total = sums["rq"] + sums["recon"] + objective.lambda_con * sums["con"] + objective.lambda_align * sums["align"]
    terms = {
        "total": total,
        **sums,
        **{f"recon_{m}": loss for m, loss in recon.items()},
        **{f"rq_{m}_{level}": loss for m, losses in rq.items() for level, loss in enumerate(losses)},
        **{
            f"con_{m}_by_{other}_{level}": loss
            for (m, other), losses in con.items()
            for level, loss in enumerate(losses, start=objective.con_start_level)
        },
        **{f"positives_{m}_by_{other}": share for (m, other), share in shares.items()},
        **{f"align_{one}_{other}": loss for (one, other), loss in align.items()},
    }
    return Losses(total, {name: term.detach() for name, term in terms.items()})


def quantization_loss(residuals: Tensor, code_vectors: Tensor, *, alpha: float) -> Tensor:
    """Return L_rq per level (L,): |sg[r_l] - e|^2 + alpha |r_l - sg[e]|^2, of residuals and codes (L, B, d).

    The first term moves the codes, the second the encoder (VQ-VAE, arXiv 1711.00937, equation 3).
    """
    codebook = (residuals.detach() - code_vectors).square().sum(-1).mean(-1)
    commitment = (residuals - code_vectors.detach()).square().sum(-1).mean(-1)
    return codebook + alpha * commitment


def reconstruction_loss(scaled: Tensor, reconstruction: Tensor) -> Tensor:
    """Return L_recon = |x - x_hat|^2 of scaled vectors and their reconstruction (B, D)."""
    return functional.mse_loss(reconstruction, scaled, reduction="sum") / len(scaled)


def positives(labels: Tensor, draws: Tensor) -> Tensor:
    """Return for each item of a batch the index (B,) of another one with its label, or its own where there is none.

    Each other item is as likely as the next: draws (B,) are uniform in [0, 1). An item whose label is ABSENT is
    nobody's positive but its own. Sorted by label, the group of an item is a run, and its positive stands 1 to
    (size - 1) places further on in that run, round its end: labels [7, 3, 7] give [2, 1, 0] whatever the draws.
    """
    ordered, order = torch.sort(labels, stable=True)
    first = torch.searchsorted(ordered, ordered)
    size = torch.searchsorted(ordered, ordered, right=True) - first
    others = size - 1
    # A draw close to 1 may round up to `others` in single precision.
    steps = 1 + torch.minimum((draws[order] * others).long(), (others - 1).clamp(min=0))
    place = torch.arange(len(labels), device=labels.device)
    partner = order[first + (place - first + steps) % size]
    chosen = torch.empty_like(order).scatter_(0, order, partner)
    return torch.where(labels == ABSENT, place, chosen)


def similarities(
    anchors: Tensor, keys: Tensor, *, candidates: Tensor, similarity: Similarity, temperature: float
) -> Tensor:
    """Return the similarities over temperature (..., B, B) of anchors and keys (..., B, d): cosine or inner product.

    Those with keys that are no candidates (B,) are next to minus infinity.
    """
    if similarity == "cosine":
        anchors, keys = (
            functional.normalize(anchors, dim=-1, eps=SHORTEST),
            functional.normalize(keys, dim=-1, eps=SHORTEST),
        )
    # Temperature and mask go into the narrow factors, the mask as one more feature: the wide product is made once, and
    # no pass over it follows.
    mask = torch.where(candidates, 0.0, _LOWEST).to(keys).expand(keys.shape[:-1])
    scaled = torch.cat([anchors / temperature, torch.ones_like(anchors[..., :1])], -1)
    return scaled @ torch.cat([keys, mask[..., None]], -1).mT


def info_nce(logits: Tensor, targets: Tensor, *, anchors: Tensor) -> Tensor:
    """Return InfoNCE (...) of logits (..., B, B): the mean over anchors of -log softmax(row)[target].

    arXiv 1807.03748, equation 4. `targets` (B,) are the columns of the positives; `anchors` (B,) says which rows
    count. Without any anchor the loss is 0.
    """
    targets = targets.masked_fill(~anchors, _IGNORED).expand(logits.shape[:-1])
    losses = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=_IGNORED, reduction="none")
    return losses.view(targets.shape).sum(-1) / anchors.sum().clamp(min=1)


def contrast_loss(
    residuals: Tensor, targets: Tensor, *, anchors: Tensor, candidates: Tensor, objective: Objective
) -> Tensor:
    """Return L_con (L') of the residuals (L', B, d) of the levels that have one.

    Anchor: the residual of item i; positive: the residual, in the same modality, of an item that shares the *other*
    modality's pseudo-label (`targets`); denominator: the residuals of all items that have the modality.
    """
    logits = _logits(residuals, residuals, candidates=candidates, objective=objective)  # (L', B, d) -> (L', B, B)
    return info_nce(logits, targets, anchors=anchors)


def alignment_loss(one: Tensor, other: Tensor, *, has_one: Tensor, has_other: Tensor, objective: Objective) -> Tensor:
    """Return L_align (): InfoNCE between the summed codes (B, d) of one item in two modalities, both ways, summed."""
    targets = torch.arange(len(one), device=one.device)
    both = has_one & has_other
    forth = _logits(one, other, candidates=has_other, objective=objective)
    back = _logits(other, one, candidates=has_one, objective=objective)
    return info_nce(forth, targets, anchors=both) + info_nce(back, targets, anchors=both)


def _logits(anchors: Tensor, keys: Tensor, *, candidates: Tensor, objective: Objective) -> Tensor:
    return similarities(
        anchors, keys, candidates=candidates, similarity=objective.similarity, temperature=objective.temperature
    )


def _contrasts(
    quantized: Mapping[str, Quantized],
    labels: Mapping[str, Tensor],
    draws: Mapping[tuple[str, str], Tensor],
    *,
    objective: Objective,
) -> tuple[dict[tuple[str, str], Tensor], dict[tuple[str, str], Tensor]]:
    """Return L_con per level and the share of anchors that found a positive, for each (modality, labels of)."""
    losses: dict[tuple[str, str], Tensor] = {}
    shares: dict[tuple[str, str], Tensor] = {}
    for modality, other in permutations(quantized, 2):
        residuals = quantized[modality].residuals[objective.con_start_level :]
        if objective.lambda_con == 0 or len(residuals) == 0:
            continue
        present = labels[modality] != ABSENT
        shared = labels[other].masked_fill(~present, ABSENT)
        targets = positives(shared, draws[modality, other])
        anchors = shared != ABSENT
        losses[modality, other] = contrast_loss(
            residuals, targets, anchors=anchors, candidates=present, objective=objective
        )
        found = anchors & (targets != torch.arange(len(targets), device=targets.device))
        shares[modality, other] = found.sum() / anchors.sum().clamp(min=1)
    return losses, shares


def _alignments(
    quantized: Mapping[str, Quantized], labels: Mapping[str, Tensor], *, objective: Objective
) -> dict[tuple[str, str], Tensor]:
    """Return L_align for each pair of modalities."""
    if objective.lambda_align == 0:
        return {}
    return {
        (one, other): alignment_loss(
            quantized[one].summed,
            quantized[other].summed,
            has_one=labels[one] != ABSENT,
            has_other=labels[other] != ABSENT,
            objective=objective,
        )
        for one, other in combinations(quantized, 2)
    }
