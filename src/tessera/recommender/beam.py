"""Beam search that never leaves the trie of valid IDs.

What makes it fast: a beam is a state of the trie, so a step looks only at its children; the first step has one beam a
user; the last code needs no further pass; what a model reads for a user, and for its beams, it reads once (see
`tessera.recommender.readers`). All shapes follow from the trie and the number of beams, and nothing goes back to the
host between steps.

Letters: U users, k beams of a user, W children of the state that has the most.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tessera.products import linear
from tessera.recommender.lists import IMPOSSIBLE, NOTHING
from tessera.recommender.network import Network
from tessera.recommender.readers import Reader
from tessera.recommender.trie import Children, Level, Trie, children_of
from tessera.recommender.vocabulary import PAD


class Beams(NamedTuple):
    """The best items of U users, best first."""

    items: Tensor  # (U, K) item, or NOTHING where fewer than K items are left
    scores: Tensor  # (U, K) mean log-probability of the item's codes, or -inf


@torch.inference_mode()
def beam_search(
    reader: Reader,
    trie: Trie,
    source: Tensor,
    *,
    beams: int,
    renormalise: bool,
    seen: Tensor | None = None,
) -> Beams:
    """Return the K = beams items whose IDs the model of reader finds likeliest after source (U, T).

    A score is the mean log-probability of the ID's L codes; the end token, certain after the last code, is not
    counted. Probabilities are over the whole vocabulary, or, with renormalise, over the children in the trie.
    Items that share an ID share its score, in ascending order. seen (U, S), padded with -1, are items to leave out:
    no beam goes where all items have been seen.
    """
    decoder = reader.begin(source, widths=_beams_of_steps(trie, beams))
    scores, nodes, tokens = _roots(source)
    unseen = None if seen is None else _Unseen(trie, seen)
    for depth, level in enumerate(trie.levels):
        children = children_of(level, nodes)
        gains = _log_probabilities(reader, decoder.step(tokens), level, children, renormalise=renormalise)
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
    reader: Reader, finished: Tensor, level: Level, children: Children, *, renormalise: bool
) -> Tensor:
    """Return log p(child | beam), (U, k, W), -inf where there is no such child."""
    if renormalise:
        return log_probabilities_among(reader.network, finished, level, children)
    return reader.log_probabilities(finished, children.tokens).masked_fill_(~children.legal, IMPOSSIBLE)


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
