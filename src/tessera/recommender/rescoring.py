"""Score items in full: what a beam search found by one task, by the others too.

A list of K beams says nothing of the items that it does not hold, though another list of the same user may. A user's
candidates are the items that any of his lists holds; here a task scores all of them, by the same probabilities as the
beam search and with the same readers.

Letters: U users, C candidates of a user.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tessera.recommender.beam import log_probabilities_among
from tessera.recommender.lists import IMPOSSIBLE, NOTHING
from tessera.recommender.readers import Reader
from tessera.recommender.trie import Trie, children_of, path_of
from tessera.recommender.vocabulary import PAD


def candidates_of(lists: Sequence[Tensor]) -> Tensor:
    """Return the items (U, C) that any of lists (U, K) holds of a user, once each: NOTHING first, then ascending.

    C is the sum of all K, so that it does not depend on what the lists have in common.

    >>> candidates_of([torch.tensor([[5, 2]]), torch.tensor([[2, 7]])]).tolist()
    [[-1, 2, 5, 7]]
    """
    together = torch.cat(list(lists), dim=1).sort(dim=1).values
    repeats = nn.functional.pad(together[:, 1:] == together[:, :-1], (1, 0))
    return together.masked_fill(repeats, NOTHING).sort(dim=1).values


@torch.inference_mode()
def score_items(reader: Reader, trie: Trie, source: Tensor, items: Tensor, *, renormalise: bool) -> Tensor:
    """Return the scores (U, C) of items (U, C) after source (U, T): IMPOSSIBLE for NOTHING.

    They are the scores of `beam_search`, of whatever items: a candidate is a beam that only goes to its own item.
    """
    paths = path_of(trie, items.clamp(min=0))
    decoder = reader.begin(source, widths=[1] + [items.shape[1]] * (len(paths) - 1))
    tokens = source.new_full((len(source), 1), PAD)
    states, scores = torch.zeros_like(tokens), torch.zeros(items.shape, device=source.device)
    for depth, (level, path) in enumerate(zip(trie.levels, paths, strict=True)):
        finished = decoder.step(tokens)
        wanted = path[..., None] if depth else path[:, None]  # (U, C, 1), but (U, 1, C) after the one beam of the root
        if renormalise:
            children = children_of(level, states)
            gains = log_probabilities_among(reader.network, finished, level, children)
            gains = gains.gather(2, wanted - level.starts[states][..., None])
        else:
            gains = reader.log_probabilities(finished, level.tokens[wanted])
        scores += gains.flatten(1)
        if not depth:
            decoder.keep(torch.zeros_like(path))
        states, tokens = path, level.tokens[path]
    return (scores / len(paths)).masked_fill(items == NOTHING, IMPOSSIBLE)
