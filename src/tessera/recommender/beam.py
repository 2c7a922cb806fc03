"""Beam search that never leaves the trie of valid IDs.

What makes it fast: the encoder runs once a user; the cross-attention's keys and values belong to the user and are
computed once, with the user's beams as the queries; so do the keys and values of earlier tokens, of which a beam is
shown its own (no cache is ever put in another order); a beam is a state of the trie, so a step looks only at its
children; the first step has one beam a user; the last code needs no further pass. All shapes follow from the trie and
the number of beams, and nothing goes back to the host between steps.

Letters: U users, k beams of a user, W children of the state that has the most, H heads, d width of a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from tessera.products import linear
from tessera.recommender.lists import IMPOSSIBLE, NOTHING
from tessera.recommender.network import HIDDEN, Network, relative_bias
from tessera.recommender.trie import Children, Level, Trie, children_of
from tessera.recommender.vocabulary import PAD


class Beams(NamedTuple):
    """The best items of U users, best first."""

    items: Tensor  # (U, K) item, or NOTHING where fewer than K items are left
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
    network = Network(model)
    decoder = _Decoder(network, source, widths=_beams_of_steps(trie, beams))
    scores, nodes, tokens = _roots(source)
    unseen = None if seen is None else _Unseen(trie, seen)
    for depth, level in enumerate(trie.levels):
        children = children_of(level, nodes)
        gains = _log_probabilities(network, decoder.step(tokens), level, children, renormalise=renormalise)
        candidates = scores[..., None] + gains  # (U, k) -> (U, k, W)
        if unseen is not None:
            candidates = candidates.masked_fill(~unseen.has_any(depth, children.nodes), IMPOSSIBLE)
        scores, best = candidates.flatten(1).topk(min(beams, candidates[0].numel()), dim=1)  # (U, k')
        nodes, tokens = (table.flatten(1).gather(1, best) for table in (children.nodes, children.tokens))
        decoder.keep(best // level.width)
    return _items(trie, nodes, scores / len(trie.levels), beams=beams, seen=seen)


def _roots(source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores, states and tokens (U, 1) that a search starts with."""
    nodes = torch.zeros(len(source), 1, dtype=torch.long, device=source.device)
    return torch.zeros(len(source), 1, device=source.device), nodes, torch.full_like(nodes, PAD)


def _beams_of_steps(trie: Trie, beams: int) -> list[int]:
    """Return how many beams each step has whose tokens the decoder reads: the first has one."""
    widths = [1]
    for level in trie.levels[:-1]:
        widths.append(min(beams, widths[-1] * level.width))
    return widths


def log_probabilities_among(network: Network, finished: Tensor, level: Level, children: Children) -> Tensor:
    """Return log p(child | one of the children), (..., W), -inf where there is no such child.

    finished (..., D) is what stands before the output layer at the states whose children they are.
    """
    outputs = network.output[level.first_token : level.last_token + 1]
    logits = linear(finished, outputs)  # (..., M)
    chosen = logits.gather(-1, children.tokens - level.first_token).masked_fill_(~children.legal, IMPOSSIBLE)
    return chosen.log_softmax(dim=-1, dtype=torch.float32)


def _log_probabilities(
    network: Network, finished: Tensor, level: Level, children: Children, *, renormalise: bool
) -> Tensor:
    """Return log p(child | beam), (U, k, W), -inf where there is no such child."""
    if renormalise:
        return log_probabilities_among(network, finished, level, children)
    probabilities = network.logits(finished).log_softmax(dim=2)  # (U, k, V)
    return probabilities.gather(2, children.tokens).masked_fill_(~children.legal, IMPOSSIBLE)


def _items(trie: Trie, leaves: Tensor, scores: Tensor, *, beams: int, seen: Tensor | None) -> Beams:
    if trie.distinct:
        items = trie.items[leaves]
    else:
        items, scores = _all_items_of(trie, leaves, scores)
        if seen is not None:
            scores = scores.masked_fill(_is_among(items, seen), IMPOSSIBLE)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        items, scores = items.gather(1, order)[:, :beams], scores[:, :beams]
    missing = beams - items.shape[1]
    items = nn.functional.pad(items.masked_fill(scores == IMPOSSIBLE, NOTHING), (0, missing), value=NOTHING)
    return Beams(items, nn.functional.pad(scores, (0, missing), value=IMPOSSIBLE))


def _all_items_of(trie: Trie, leaves: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the items of leaves (U, K) and their scores, both (U, K * items of the fullest leaf)."""
    starts, ends = trie.leaf_starts[leaves], trie.leaf_starts[leaves + 1]
    places = starts[..., None] + torch.arange(int(trie.leaf_starts.diff().max()), device=leaves.device)
    items = trie.items[places.clamp(max=len(trie.items) - 1)]
    spread = scores[..., None].masked_fill(places >= ends[..., None], IMPOSSIBLE)
    return items.flatten(1), spread.flatten(1)


def _is_among(items: Tensor, seen: Tensor) -> Tensor:
    """Return whether each of items (U, ...) is among its user's seen (U, S)."""
    ordered = seen.sort(dim=1).values.contiguous()
    wanted = items.flatten(1).contiguous()
    places = torch.searchsorted(ordered, wanted).clamp(max=ordered.shape[1] - 1)
    return (ordered.gather(1, places) == wanted).view(items.shape)


class _Unseen:
    """Where in a trie each of U users finds items that it has not seen (U, S), padded with -1."""

    def __init__(self, trie: Trie, seen: Tensor) -> None:
        self.levels = trie.levels
        places = trie.places[seen].sort(dim=1).values
        repeated = nn.functional.pad(places[:, 1:] == places[:, :-1], (1, 0))
        self.places = places.masked_fill(repeated, len(trie.items)).sort(dim=1).values.contiguous()

    def has_any(self, depth: int, children: Tensor) -> Tensor:
        """Return whether each of children (U, k, W), states after level depth, has an item unseen by its user."""
        first, last = (self.levels[depth].spans[nodes].flatten(1) for nodes in (children, children + 1))
        seen = torch.searchsorted(self.places, last) - torch.searchsorted(self.places, first)
        return (seen < last - first).view(children.shape)


class _Decoder:
    """The decoder one token at a time, for the beams of U users.

    A slot is a token that has been read: the first step has one a user, the next as many as beams were kept, and so
    on, S in all. Keys and values of all slots stay where they are, and `paths` tells which of them a beam came along.
    """

    def __init__(self, network: Network, source: Tensor, *, widths: list[int]) -> None:
        """Begin after source (U, T), for steps of as many beams as widths say."""
        encoded = network.encode(source)
        self.network, self.hidden = network, encoded.hidden
        self.blocks = [block.layer for block in network.decoder.block]
        self.sources = [
            [part.contiguous() for part in network.keys_and_values(block[1], encoded)] for block in self.blocks
        ]  # keys and values (U, H, T, d) each
        self.bias = relative_bias(network.decoder, len(widths))[0, :, -1:]  # (H, 1, steps) the last one is no distance
        self.steps = torch.arange(len(widths), device=source.device).repeat_interleave(
            torch.tensor(widths, device=source.device), output_size=sum(widths)
        )  # (S,) the step of each slot
        self.read = 0
        self.paths = source.new_empty(len(source), 1, 0)  # (U, k, step) slots of the tokens before
        users, heads, _, width = self.sources[0][0].shape
        self.memory = [
            [part.new_empty(users, heads, sum(widths), width) for part in pair] for pair in self.sources
        ]  # keys and values (U, H, S, d) each

    def step(self, tokens: Tensor) -> Tensor:
        """Return what stands before the output layer, (U, k, D), after one more token (U, k) of each beam."""
        states = self.network.embed(tokens)
        bias = self._read(tokens)
        for block, source, memory in zip(self.blocks, self.sources, self.memory, strict=True):
            past, from_source, feed_forward = block
            queries, *new = self.network.queries_keys_values(past, states)
            for slots, added in zip(memory, new, strict=True):
                slots[:, :, self.read - tokens.shape[1] : self.read] = added
            attended = self.network.attended(queries, *(slots[:, :, : self.read] for slots in memory), bias=bias)
            states = self.network.added(states, attended, past.SelfAttention.o)
            states = self.network.attend_to_source(from_source, states, source, self.hidden)
            states = self.network.feed_forward(feed_forward, states)
        return self.network.finished(states)

    def keep(self, parents: Tensor) -> None:
        """Go on with the beams parents (U, k'), which may repeat and leave out some."""
        self.paths = self.paths.gather(1, parents[..., None].expand(-1, -1, self.paths.shape[2]))

    def _read(self, tokens: Tensor) -> Tensor:
        """Enter tokens (U, k) as slots; return what is added to the scores of all slots so far, (U, H, k, S)."""
        users, beams = tokens.shape
        step = self.paths.shape[2]
        own = torch.arange(self.read, self.read + beams, device=tokens.device)
        self.paths = torch.cat([self.paths, own[:, None].expand(users, -1, 1)], dim=2)
        self.read += beams
        hidden = torch.full((users, beams, self.read), HIDDEN, device=tokens.device).scatter_(2, self.paths, 0)
        distances = self.bias[:, :, self.bias.shape[2] - 1 - step :]  # (H, 1, step + 1)
        return hidden[:, None] + distances[:, :, self.steps[: self.read]]
