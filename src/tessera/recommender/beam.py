"""Beam search that never leaves the trie of valid IDs.

What makes it fast: the encoder runs once a user; the cross-attention's keys and values belong to the user and are
computed once, with the user's beams as the queries; a beam is a state of the trie, so a step looks only at its
children; the first step has one beam a user; the last code needs no further pass. All shapes follow from the trie and
the number of beams, and nothing goes back to the host between steps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.recommender.trie import Level, Trie
from tessera.recommender.vocabulary import PAD

IMPOSSIBLE = float("-inf")


class Beams(NamedTuple):
    """The best items of U users, best first."""

    items: Tensor  # (U, K) item, or -1 where fewer than K items are left
    scores: Tensor  # (U, K) mean log-probability of the item's codes, or -inf


@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration,
    trie: Trie,
    source: Tensor,
    *,
    beams: int,
    renormalise: bool,
    seen: Tensor | None = None,
) -> Beams:
    """Return the K = beams items whose IDs the model finds likeliest after source (U, T).

    A score is the mean log-probability of the ID's L codes; the end token, certain after the last code, is not
    counted. Probabilities are over the whole vocabulary, or, with renormalise, over the children in the trie.
    Items that share an ID share its score, in ascending order. seen (U, S), padded with -1, are items to leave out:
    no beam goes where all items have been seen.
    """
    mask = source != PAD
    states = model.encoder(input_ids=source, attention_mask=mask).last_hidden_state
    decoder = _Decoder(model, states, mask)
    scores, nodes, tokens = _roots(source)
    unseen = None if seen is None else _Unseen(trie, seen)
    for depth, level in enumerate(trie.levels):
        children = _children(level, nodes)
        gains = _log_probabilities(model, decoder.step(tokens), level, children, renormalise=renormalise)
        candidates = scores[..., None] + gains  # (U, k) -> (U, k, W)
        if unseen is not None:
            candidates = candidates.masked_fill(~unseen.has_any(depth, children.nodes), IMPOSSIBLE)
        scores, best = candidates.flatten(1).topk(min(beams, candidates[0].numel()), dim=1)  # (U, k')
        nodes, tokens = (table.flatten(1).gather(1, best) for table in (children.nodes, children.tokens))
        decoder.keep(best // level.width)
    return _items(trie, nodes, scores / len(trie.levels), beams=beams, seen=seen)


class _Children(NamedTuple):
    nodes: Tensor  # (U, k, W) states of the next level
    tokens: Tensor  # (U, k, W)
    legal: Tensor  # (U, k, W) False where a state has fewer than W children


def _roots(source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores, states and tokens (U, 1) that a search starts with."""
    nodes = torch.zeros(len(source), 1, dtype=torch.long, device=source.device)
    return torch.zeros(len(source), 1, device=source.device), nodes, torch.full_like(nodes, PAD)


def _children(level: Level, nodes: Tensor) -> _Children:
    starts, ends = level.starts[nodes].long(), level.starts[nodes + 1].long()
    children = starts[..., None] + torch.arange(level.width, device=nodes.device)
    inside = children.clamp(max=len(level.tokens) - 1)
    return _Children(inside, level.tokens[inside].long(), children < ends[..., None])


def _log_probabilities(
    model: T5ForConditionalGeneration, hidden: Tensor, level: Level, children: _Children, *, renormalise: bool
) -> Tensor:
    """Return log p(child | beam), (U, k, W), -inf where there is no such child."""
    table = model.lm_head.weight
    if renormalise:
        logits = nn.functional.linear(hidden, table[level.first_token : level.last_token + 1])  # (U, k, M)
        chosen = logits.gather(2, children.tokens - level.first_token).masked_fill(~children.legal, IMPOSSIBLE)
        return chosen - chosen.logsumexp(dim=2, keepdim=True)
    logits = nn.functional.linear(hidden, table)  # (U, k, V)
    chosen = logits.gather(2, children.tokens) - logits.logsumexp(dim=2, keepdim=True)
    return chosen.masked_fill(~children.legal, IMPOSSIBLE)


def _items(trie: Trie, leaves: Tensor, scores: Tensor, *, beams: int, seen: Tensor | None) -> Beams:
    if trie.distinct:
        items = trie.items[leaves].long()
    else:
        items, scores = _all_items_of(trie, leaves, scores)
        if seen is not None:
            scores = scores.masked_fill(_is_among(items, seen), IMPOSSIBLE)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        items, scores = items.gather(1, order)[:, :beams], scores[:, :beams]
    missing = beams - items.shape[1]
    items = nn.functional.pad(items.masked_fill(scores == IMPOSSIBLE, -1), (0, missing), value=-1)
    return Beams(items, nn.functional.pad(scores, (0, missing), value=IMPOSSIBLE))


def _all_items_of(trie: Trie, leaves: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the items of leaves (U, K) and their scores, both (U, K * items of the fullest leaf)."""
    starts, ends = trie.leaf_starts[leaves].long(), trie.leaf_starts[leaves + 1].long()
    places = starts[..., None] + torch.arange(int(trie.leaf_starts.diff().max()), device=leaves.device)
    items = trie.items[places.clamp(max=len(trie.items) - 1)].long()
    spread = scores[..., None].masked_fill(places >= ends[..., None], IMPOSSIBLE)
    return items.flatten(1), spread.flatten(1)


def _is_among(items: Tensor, seen: Tensor) -> Tensor:
    """Return whether each of items (U, ...) is among its user's seen (U, S)."""
    ordered = seen.sort(dim=1).values.contiguous()
    wanted = items.flatten(1).long().contiguous()
    places = torch.searchsorted(ordered, wanted).clamp(max=ordered.shape[1] - 1)
    return (ordered.gather(1, places) == wanted).view(items.shape)


class _Unseen:
    """Where in a trie each of U users finds items that it has not seen (U, S), padded with -1."""

    def __init__(self, trie: Trie, seen: Tensor) -> None:
        self.spans = trie.spans()
        place_of = torch.empty(len(trie.items) + 1, dtype=torch.long, device=seen.device)
        place_of[trie.items.long()] = torch.arange(len(trie.items), device=seen.device)
        place_of[-1] = len(trie.items)  # where -1 leads: beyond all items
        places = place_of[seen].sort(dim=1).values
        repeated = nn.functional.pad(places[:, 1:] == places[:, :-1], (1, 0))
        self.places = places.masked_fill(repeated, len(trie.items)).sort(dim=1).values.contiguous()

    def has_any(self, depth: int, children: Tensor) -> Tensor:
        """Return whether each of children (U, k, W), states after level depth, has an item unseen by its user."""
        first, last = (self.spans[depth][nodes].long().flatten(1) for nodes in (children, children + 1))
        seen = torch.searchsorted(self.places, last) - torch.searchsorted(self.places, first)
        return (seen < last - first).view(children.shape)


class _Decoder:
    """The model's decoder one position at a time, for k beams a user; weights are the model's own modules."""

    def __init__(self, model: T5ForConditionalGeneration, states: Tensor, mask: Tensor) -> None:
        self.stack: Any = model.decoder
        self.width: int = model.config.d_kv
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0
        self.blocks: list[Any] = [block.layer for block in self.stack.block]
        self.cross = [
            (self._heads(block[1].EncDecAttention.k(states)), self._heads(block[1].EncDecAttention.v(states)))
            for block in self.blocks
        ]  # (U, H, T, d) each
        self.hidden_from = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, IMPOSSIBLE)[:, None, None]
        self.past: list[tuple[Tensor, Tensor]] = []

    def step(self, tokens: Tensor) -> Tensor:
        """Return what stands before the output layer, (U, k, D), after one more token (U, k) of each beam."""
        hidden = self.stack.embed_tokens(tokens)
        position = self.past[0][0].shape[2] if self.past else 0
        bias = self.blocks[0][0].SelfAttention.compute_bias(position + 1, position + 1)[0, :, -1]  # (H, t)
        for depth, (past, source, feed_forward) in enumerate(self.blocks):
            hidden = hidden + self._attend_to_past(past.SelfAttention, past.layer_norm(hidden), depth, bias)
            hidden = hidden + self._attend_to_source(source.EncDecAttention, source.layer_norm(hidden), depth)
            hidden = feed_forward(hidden)
        return self.stack.final_layer_norm(hidden) * self.scale

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k'), which may repeat and leave out some."""
        users = torch.arange(len(parents), device=parents.device)[:, None]
        self.past = [(keys[users, parents], values[users, parents]) for keys, values in self.past]

    def _attend_to_past(self, attention: Any, hidden: Tensor, depth: int, bias: Tensor) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(2, (-1, self.width)) for layer in (attention.q, attention.k, attention.v)
        )  # (U, k, H, d)
        keys, values = key[:, :, None], value[:, :, None]  # (U, k, 1, H, d)
        if depth < len(self.past):
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.past[depth], (keys, values), strict=True))
            self.past[depth] = (keys, values)
        else:
            self.past.append((keys, values))
        weights = ((query[:, :, None] * keys).sum(-1) + bias.T).softmax(dim=2)  # (U, k, t, H)
        return attention.o((weights[..., None] * values).sum(2).flatten(2))

    def _attend_to_source(self, attention: Any, hidden: Tensor, depth: int) -> Tensor:
        keys, values = self.cross[depth]
        weights = (self._heads(attention.q(hidden)) @ keys.transpose(2, 3) + self.hidden_from).softmax(
            dim=-1
        )  # (U, H, k, T)
        return attention.o((weights @ values).transpose(1, 2).flatten(2))

    def _heads(self, states: Tensor) -> Tensor:
        """(U, k, H * d) -> (U, H, k, d)."""
        return states.unflatten(2, (-1, self.width)).transpose(1, 2)
