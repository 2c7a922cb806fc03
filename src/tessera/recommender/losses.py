"""What the T5 is trained to lower: cross-entropy on the tokens, and the implicit alignment of modalities."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.recommender.batches import Batch
from tessera.recommender.beam import log_probabilities_among
from tessera.recommender.lists import NOTHING
from tessera.recommender.network import HIDDEN, Network
from tessera.recommender.trie import Trie, children_of, path_of
from tessera.recommender.vocabulary import PAD

#: What cross_entropy takes for a row without a class, which counts for nothing.
NO_CLASS: Final = -100


def token_losses(model: T5ForConditionalGeneration, batch: Batch, tries: Sequence[Trie] = ()) -> Tensor:
    """Return the sum of -log p(token) over all target tokens of batch.

    p is over the whole vocabulary, or, where there are tries, one for each of the samples' names, over the tokens that
    are valid after those before: see trie_losses.
    """
    return trie_losses(model, batch, tries) if tries else softmax_losses(model, batch.source, batch.target)


def softmax_losses(model: T5ForConditionalGeneration, source: Tensor, target: Tensor) -> Tensor:
    """Return the sum of -log p(token) over all target tokens; PAD fills up source (B, T) and target (B R, T')."""
    network = Network(model)
    decoder_input = nn.functional.pad(target[:, :-1], (1, 0), value=PAD)
    logits = network.logits(network.decode(decoder_input, network.encode(source)))
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), target.flatten(), ignore_index=PAD, reduction="sum"
    )


def trie_losses(model: T5ForConditionalGeneration, batch: Batch, tries: Sequence[Trie]) -> Tensor:
    """Return the sum of -log p(token) over all target tokens of batch, with p over the children in a trie alone.

    "Constrained sequence learning" of MSCGRec (arXiv 2602.03713): the softmax at each step runs over the children of
    the true prefix in the trie of valid IDs. tries[i] holds the IDs that targets with batch.told = i are among, of all
    items; two tries may begin with the same tokens. A target's path is that of its item.

    A token without a sibling costs nothing, nor does END, which comes after every ID and is not even decoded. Where a
    sum is divided by the number of tokens these count all the same, as with the softmax over the whole vocabulary, so
    that a learning rate means the same.
    """
    network = Network(model)
    decoder_input = nn.functional.pad(batch.target[:, :-2], (1, 0), value=PAD)
    finished = network.decode(decoder_input, network.encode(batch.source))
    losses = [
        _path_losses(network, finished, trie, batch.items.clamp(min=0)).masked_fill(batch.told != place, 0)
        for place, trie in enumerate(tries)
    ]
    return torch.stack(losses).sum()


def implicit_alignment(
    model: T5ForConditionalGeneration, ids: Mapping[str, Tensor], items: Tensor, *, temperature: float
) -> Tensor:
    """Return L_implicit of MACRec (arXiv 2511.15122): how far the encoder's states of an item's IDs are apart.

    ids maps a modality to the tokens (N, L) of all items; items (I,) are distinct, at least one, and among them
    NOTHING stands for none. Per pair of modalities: symmetric InfoNCE over cosine similarities of mean-pooled encoder
    states, where row i of one modality belongs to row i of the other. Pairs of modalities are averaged.
    """
    states = [_pooled(model, tokens[items.clamp(min=0)]) for tokens in ids.values()]
    losses = [
        symmetric_info_nce(one, other, temperature=temperature, absent=items == NOTHING)
        for one, other in combinations(states, 2)
    ]
    return torch.stack(losses).mean()


def symmetric_info_nce(one: Tensor, other: Tensor, *, temperature: float, absent: Tensor | None = None) -> Tensor:
    """Return InfoNCE (arXiv 1807.03748, eq. 4) between rows of one (I, D) and other (I, D), both directions averaged.

    The similarity is the cosine over temperature; row i's positive is row i, all other rows are its negatives. Rows
    that are absent (I,) are nobody's positive nor negative.
    """
    with torch.autocast(one.device.type, enabled=False):  # bf16 would round similarities to steps of 0.06 at 10
        similarities = nn.functional.normalize(one, dim=1) @ nn.functional.normalize(other, dim=1).T / temperature
    own = torch.arange(len(one), device=one.device)
    if absent is not None:
        similarities = similarities.masked_fill(absent | absent[:, None], HIDDEN)
        own = own.masked_fill(absent, NO_CLASS)
    directions = [
        nn.functional.cross_entropy(each, own, ignore_index=NO_CLASS) for each in (similarities, similarities.T)
    ]
    return torch.stack(directions).mean()


class Alignment(nn.Module):
    """L_implicit alone: what the encoder learns before it learns to recommend (MGR-LF++, arXiv 2503.23333).

    The paper matches an item's IDs across modalities by a contrast whose formula, weight and temperature it does not
    publish; here it is that of `implicit_alignment`. ids maps a modality to the tokens (N, L) of all items.
    """

    def __init__(self, model: T5ForConditionalGeneration, ids: Mapping[str, Tensor], *, temperature: float) -> None:
        super().__init__()
        self.encoder = model.get_encoder()  # all that learns here
        self.whole, self.temperature = [model], temperature  # in a list, so that it is no part of this module
        self.ids = {modality: tokens.long() for modality, tokens in ids.items()}

    def forward(self, items: Tensor) -> Tensor:
        """Return the loss of distinct items (B,)."""
        return implicit_alignment(self.whole[0], self.ids, items, temperature=self.temperature)


class TrainingLosses(nn.Module):
    """Both losses in one forward pass, so that several processes' gradients meet in one place.

    ids maps the modalities to align to the tokens of all items; with lambda_implicit = 0 they are not looked at. tries
    are those of token_losses. Both are on the device where the model will be.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        ids: Mapping[str, Tensor],
        *,
        lambda_implicit: float,
        temperature: float,
        tries: Sequence[Trie] = (),
    ) -> None:
        super().__init__()
        self.model, self.lambda_implicit, self.temperature = model, lambda_implicit, temperature
        # No buffers, which processes would send each other at every step: all have the same IDs from the start.
        self.tries = tuple(tries)
        self.ids = {modality: tokens.long() for modality, tokens in ids.items()}
        # With fewer than two there is nothing to align: IDs may be of fused vectors.
        self.aligns = bool(lambda_implicit) and len(self.ids) >= 2  # noqa: PLR2004

    def forward(self, batch: Batch, distinct: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the summed token losses of batch, and L_implicit of the distinct items that are its own targets.

        These are given where they are known: a GPU would have to be waited for to find them out.
        """
        tokens = token_losses(self.model, batch, self.tries)
        if not self.aligns:
            return tokens, tokens.new_zeros(())
        items = batch.items.view(len(batch.source), -1)[:, 0].unique() if distinct is None else distinct
        return tokens, implicit_alignment(self.model, self.ids, items, temperature=self.temperature)


def _path_losses(network: Network, finished: Tensor, trie: Trie, items: Tensor) -> Tensor:
    """Return the sum of -log p over the L steps to each of items (B,): (B,).

    finished (B, T', D) stands before each step; where it ends before an ID does, the steps up to there.
    """
    losses, states = [], torch.zeros_like(items)
    for before, level, reached in zip(finished.unbind(1), trie.levels, path_of(trie, items), strict=False):
        among = log_probabilities_among(network, before, level, children_of(level, states))  # (B, W)
        losses.append(-among.gather(1, (reached - level.starts[states])[:, None])[:, 0])
        states = reached
    return torch.stack(losses).sum(dim=0)


def _pooled(model: T5ForConditionalGeneration, tokens: Tensor) -> Tensor:
    """Return the mean of the encoder's states over the tokens (I, L): (I, D)."""
    return Network(model).encode(tokens).states.float().mean(dim=1)
