"""What the T5 is trained to lower: cross-entropy on the tokens, and the implicit alignment of modalities."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.recommender.network import Network
from tessera.recommender.vocabulary import PAD


def token_losses(model: T5ForConditionalGeneration, source: Tensor, target: Tensor) -> Tensor:
    """Return the sum of -log p(token) over all target tokens; source (B, T) and target (B, T') are padded with PAD."""
    network = Network(model)
    decoder_input = nn.functional.pad(target[:, :-1], (1, 0), value=PAD)
    logits = network.logits(network.decode(decoder_input, network.encode(source)))
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), target.flatten(), ignore_index=PAD, reduction="sum"
    )


def implicit_alignment(
    model: T5ForConditionalGeneration, ids: Mapping[str, Tensor], items: Tensor, *, temperature: float
) -> Tensor:
    """Return L_implicit of MACRec (arXiv 2511.15122): how far the encoder's states of an item's IDs are apart.

    ids maps a modality to the tokens (N, L) of all items; items (I,) are distinct, at least one. Per pair of
    modalities: symmetric InfoNCE over cosine similarities of mean-pooled encoder states, where row i of one modality
    belongs to row i of the other. Pairs of modalities are averaged.
    """
    states = [_pooled(model, tokens[items]) for tokens in ids.values()]
    losses = [symmetric_info_nce(one, other, temperature=temperature) for one, other in combinations(states, 2)]
    return torch.stack(losses).mean()


def symmetric_info_nce(one: Tensor, other: Tensor, *, temperature: float) -> Tensor:
    """Return InfoNCE (arXiv 1807.03748, eq. 4) between rows of one (I, D) and other (I, D), both directions averaged.

    The similarity is the cosine over temperature; row i's positive is row i, all other rows are its negatives.
    """
    with torch.autocast(one.device.type, enabled=False):  # bf16 would round similarities to steps of 0.06 at 10
        similarities = nn.functional.normalize(one, dim=1) @ nn.functional.normalize(other, dim=1).T / temperature
    own = torch.arange(len(one), device=one.device)
    return (nn.functional.cross_entropy(similarities, own) + nn.functional.cross_entropy(similarities.T, own)) / 2


class Alignment(nn.Module):
    """L_implicit alone: what the encoder learns before it learns to recommend (MGR-LF++, arXiv 2503.23333).

    The paper matches an item's IDs across modalities by a contrast whose formula, weight and temperature it does not
    publish; here it is that of `implicit_alignment`. ids maps a modality to the tokens (N, L) of all items.
    """

    def __init__(self, model: T5ForConditionalGeneration, ids: Mapping[str, Tensor], *, temperature: float) -> None:
        super().__init__()
        self.encoder = model.get_encoder()  # all that learns here: processes wait for the gradient of each weight
        self.whole, self.temperature = [model], temperature  # in a list, so that it is no part of this module
        self.ids = {modality: tokens.long() for modality, tokens in ids.items()}

    def forward(self, items: Tensor) -> Tensor:
        """Return the loss of distinct items (B,)."""
        return implicit_alignment(self.whole[0], self.ids, items, temperature=self.temperature)


class TrainingLosses(nn.Module):
    """Both losses in one forward pass, so that several processes' gradients meet in one place.

    ids maps the modalities to align to the tokens of all items, on the device where the model will be; with
    lambda_implicit = 0 they are not looked at.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        ids: Mapping[str, Tensor],
        *,
        lambda_implicit: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.model, self.lambda_implicit, self.temperature = model, lambda_implicit, temperature
        # No buffers, which processes would send each other at every step: all have the same IDs from the start.
        self.ids = {modality: tokens.long() for modality, tokens in ids.items()}

    def forward(self, source: Tensor, target: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed token losses of the batch, and L_implicit of its distinct target items (B,)."""
        tokens = token_losses(self.model, source, target)
        if not self.lambda_implicit or len(self.ids) == 1:
            return tokens, tokens.new_zeros(())
        return tokens, implicit_alignment(self.model, self.ids, items.unique(), temperature=self.temperature)


def _pooled(model: T5ForConditionalGeneration, tokens: Tensor) -> Tensor:
    """Return the mean of the encoder's states over the tokens (I, L): (I, D)."""
    return Network(model).encode(tokens).states.float().mean(dim=1)
