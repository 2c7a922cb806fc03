"""The losses of the cross-modal quantizer (MACRec, arXiv 2511.15122).

    L_ID = sum over modalities of (L_rq + L_recon) + lambda_con * sum over levels of L_con^l + lambda_align * L_align

and the two regularisers of LETTER (arXiv 2405.07314), which are added modality by modality:

    + D * (lambda_cf * L_CF + lambda_diversity * sum over levels of L_Div^l)

whose published weights stand beside a reconstruction that is averaged over the D features: here it is summed.

Conventions, since the paper's weights are relative to them: as the paper writes it, a squared norm is the *sum* over
features, and levels, modalities and directions are summed too; items are averaged. (The released code averages over
features, which makes lambda_con and lambda_align weigh D times as much: measured, the contrast then wins over the
reconstruction and the codebooks collapse.) Vectors have unit mean square per feature (see `ModalityQuantizer`), so
L_recon / D is the share of their variance that the codes do not explain. An item that lacks a modality counts in L_rq
and L_recon with the mean of the vectors, which is soon met: where many do, both say so much less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tessera.codes.quantizer import Quantized
from tessera.residual import quantization_loss

Similarity = Literal["cosine", "inner"]

#: The label of an item that lacks the modality.
ABSENT = -1

#: Shorter vectors are not scaled up to unit length: a residual that its code meets exactly has no direction, and a
#: gradient through its length would be without bound.
SHORTEST = 1e-3

#: Stands for minus infinity: a row without any candidate would have gradients of nan.
_LOWEST = -1e30

#: Stands for the target of a code that has none.
_NOBODY = -1

#: Logits of InfoNCE that are there at one time: 4 MiB of floats, which a processor's cache holds.
LOGITS = 2**20


@dataclass(frozen=True)
class Objective:
    """The weights and choices of L_ID, named as in params.yaml."""

    alpha: float
    lambda_con: float
    con_start_level: int
    lambda_align: float
    temperature: float
    similarity: Similarity
    lambda_cf: float
    lambda_diversity: float
    diversity_clusters: int


class Known(NamedTuple):
    """What a collaborative model knows of a batch."""

    vectors: Tensor  # (B, d)
    present: Tensor  # (B,) whether it knows the item


class Neighbours(NamedTuple):
    """The codes of a modality, and for each another one of its cluster; its own index where there is none."""

    codebooks: Tensor  # (L, M, d)
    targets: Tensor  # (L, M)


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
    known: Known | None = None,
    neighbours: Mapping[str, Neighbours] = MappingProxyType({}),
) -> Losses:
    """Return L_ID of a batch whose items have the labels (B,) in each modality, ABSENT where they lack it.

    `draws` holds, for each ordered pair of modalities, uniform numbers (B,) in [0, 1) that choose the positives.
    Labels of a modality that is not quantized here pair the items of those that are. Terms of weight 0 are not
    computed; the sums `rq`, `recon`, `con` and `align` are always there. L_CF and its sum
    `cf` are there if something is `known`, L_Div and its sum `diversity` for the modalities that have `neighbours`.
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
    cf = _collaborative(quantized, labels, known, objective=objective)
    diversity = _diversities(quantized, neighbours, objective=objective)
    for name, weight, parts in (
        ("cf", objective.lambda_cf, cf),
        ("diversity", objective.lambda_diversity, diversity),
    ):
        if parts:
            sums[name] = torch.stack([part.sum() for part in parts.values()]).sum()
            of_features = [part.sum() * quantized[m].scaled.shape[1] for m, part in parts.items()]
            total = total + weight * torch.stack(of_features).sum()
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
        **{f"cf_{m}": loss for m, loss in cf.items()},
        **{f"diversity_{m}_{level}": loss for m, losses in diversity.items() for level, loss in enumerate(losses)},
    }
    return Losses(total, {name: term.detach() for name, term in terms.items()})


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


def narrow_factors(
    anchors: Tensor, keys: Tensor, *, candidates: Tensor, similarity: Similarity, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return two factors (..., B, d + 1) whose product is the similarities over temperature of anchors and keys.

    Both are (..., B, d); similarities are cosines or inner products. Those with keys that are no candidates (B,) are
    next to minus infinity: the mask is one more feature, so that no pass over the wide product has to set it.
    """
    if similarity == "cosine":
        anchors, keys = (
            functional.normalize(anchors, dim=-1, eps=SHORTEST),
            functional.normalize(keys, dim=-1, eps=SHORTEST),
        )
    mask = torch.where(candidates, 0.0, _LOWEST).to(keys).expand(keys.shape[:-1])
    ones = torch.ones_like(anchors[..., :1])
    return torch.cat([anchors / temperature, ones], -1), torch.cat([keys, mask[..., None]], -1)


def info_nce(rows: Tensor, columns: Tensor, targets: Tensor, *, anchors: Tensor) -> Tensor:
    """Return InfoNCE (...) of logits rows @ columns.mT (..., B, B): the mean over anchors of -log softmax(row)[target].

    arXiv 1807.03748, equation 4. rows and columns are (..., B, d), `targets` (B,) the columns of the positives;
    `anchors` (B,) says which rows count. Without any anchor the loss is 0.
    """
    weights = anchors / anchors.sum().clamp(min=1)
    loss: Tensor = _InfoNce.apply(rows, columns, targets[:, None], weights[:, None])
    return loss


class _InfoNce(torch.autograd.Function):
    """InfoNCE by blocks of rows, each with its part of the gradient: the logits of a batch are never there as a whole.

    Each block stays in a processor's cache while it is made, turned into shares of its softmax, and multiplied away.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        count = max(1, LOGITS // (columns.numel() // columns.shape[-1]))
        losses, by_rows, by_columns = [], [], torch.zeros_like(columns)
        every_target = targets.expand(*rows.shape[:-1], 1)
        parts = (rows.split(count, -2), every_target.split(count, -2), weights.split(count))
        for part, target, weight in zip(*parts, strict=True):
            logits = part @ columns.mT  # (..., b, B)
            largest, positive = logits.amax(-1, keepdim=True), logits.gather(-1, target)
            shares = logits.sub_(largest).exp_()
            sums = shares.sum(-1, keepdim=True)
            losses.append(((sums.log() + largest - positive) * weight).sum((-2, -1)))
            # The loss by the logits: weight * (softmax - 1 at the target).
            slopes = shares.mul_(weight / sums).scatter_add_(-1, target, -weight.expand_as(target))
            by_rows.append(slopes @ columns)
            by_columns += slopes.mT @ part
        ctx.save_for_backward(torch.cat(by_rows, -2), by_columns)
        return torch.stack(losses).sum(0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_rows, by_columns = ctx.saved_tensors
        return by_rows * slope[..., None, None], by_columns * slope[..., None, None], None, None


def contrast_loss(
    residuals: Tensor, targets: Tensor, *, anchors: Tensor, candidates: Tensor, objective: Objective
) -> Tensor:
    """Return L_con (L') of the residuals (L', B, d) of the levels that have one.

    Anchor: the residual of item i; positive: the residual, in the same modality, of an item that shares the *other*
    modality's pseudo-label (`targets`); denominator: the residuals of all items that have the modality.
    """
    rows, columns = _factors(residuals, residuals, candidates=candidates, objective=objective)
    return info_nce(rows, columns, targets, anchors=anchors)


def alignment_loss(one: Tensor, other: Tensor, *, has_one: Tensor, has_other: Tensor, objective: Objective) -> Tensor:
    """Return L_align (): InfoNCE between the summed codes (B, d) of one item in two modalities, both ways, summed."""
    targets = torch.arange(len(one), device=one.device)
    both = has_one & has_other
    forth = _factors(one, other, candidates=has_other, objective=objective)
    back = _factors(other, one, candidates=has_one, objective=objective)
    return info_nce(*forth, targets, anchors=both) + info_nce(*back, targets, anchors=both)


def collaborative_loss(summed: Tensor, known: Known, *, present: Tensor, objective: Objective) -> Tensor:
    """Return L_CF (): InfoNCE from the summed codes (B, d) of an item to its collaborative vector.

    LETTER, section "Collaborative regularization": anchors are the items that have the modality (`present`) and that
    the collaborative model knows, candidates all that it knows. Published: one direction, inner products without a
    temperature (here `similarity` and `temperature`, as of the other contrasts), a weight of 0.02 (0.01 in the released
    code), and vectors as wide as the codes: 32, from SASRec or LightGCN.
    """
    factors = _factors(summed, known.vectors, candidates=known.present, objective=objective)
    return info_nce(*factors, torch.arange(len(summed), device=summed.device), anchors=present & known.present)


def diversity_loss(codes: Tensor, neighbours: Neighbours, *, objective: Objective) -> Tensor:
    """Return L_Div (L,) of the codes (B, L) of a batch: InfoNCE from an item's code to another one of its cluster.

    LETTER, section "Diversity regularization": the denominator runs over all codes of the level but the item's own;
    codes that are much used so pull others near, which then take items from them. It moves codebooks only. A code that
    is alone in its cluster has no part in it. Published: inner products without a temperature (as above), 10 clusters,
    a weight of 0.0001. Here a code has one positive a step, the same for all items that have it.
    """
    everyone = torch.ones(neighbours.codebooks.shape[1], dtype=torch.bool, device=codes.device)
    factors = _factors(neighbours.codebooks, neighbours.codebooks, candidates=everyone, objective=objective)
    return torch.stack([_diversity(*level) for level in zip(codes.T, neighbours.targets, *factors, strict=True)])


def _diversity(codes: Tensor, targets: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return L_Div () of one level: of codes (B,), given the target of each code (M,) and the factors (M, d + 1)."""
    logits = functional.embedding(codes, rows) @ columns.T  # (B, M)
    wanted = targets[codes]
    losses = functional.cross_entropy(
        logits.scatter(1, codes[:, None], _LOWEST),
        wanted.masked_fill(wanted == codes, _NOBODY),
        ignore_index=_NOBODY,
        reduction="sum",
    )
    return losses / (wanted != codes).sum().clamp(min=1)


def _factors(anchors: Tensor, keys: Tensor, *, candidates: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    return narrow_factors(
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
    for modality, other in permutations(labels, 2):
        if modality not in quantized:
            continue
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


def _collaborative(
    quantized: Mapping[str, Quantized], labels: Mapping[str, Tensor], known: Known | None, *, objective: Objective
) -> dict[str, Tensor]:
    """Return L_CF of each modality."""
    if known is None:
        return {}
    return {
        modality: collaborative_loss(part.summed, known, present=labels[modality] != ABSENT, objective=objective)
        for modality, part in quantized.items()
    }


def _diversities(
    quantized: Mapping[str, Quantized], neighbours: Mapping[str, Neighbours], *, objective: Objective
) -> dict[str, Tensor]:
    """Return L_Div per level of each modality that has neighbours."""
    return {m: diversity_loss(quantized[m].codes, near, objective=objective) for m, near in neighbours.items()}
