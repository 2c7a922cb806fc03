"""What the beam search and rescoring are held to: every item scored by a plain T5, one user at a time."""

import numpy as np
import torch

from tests.recommender.tries import walk

USERS = 5
NUMERIC = 1e-5


def sources(world, *, seed=0):
    """Histories of several lengths, padded."""
    rng = np.random.default_rng(seed)
    source = torch.zeros(USERS, 12, dtype=torch.long)
    for user in range(USERS):
        history = rng.integers(0, len(world.tokens["text"]), user % 4 + 1)
        row = world.tokens["text"][history].ravel().astype(np.int64)
        source[user, : len(row)] = torch.from_numpy(row)
    return source


@torch.inference_mode()
def scores_of_all_items(model, source, tokens, trie, *, renormalise):
    """(U, N) mean log-probabilities of every item's codes by teacher forcing, one user at a time."""
    labels = torch.from_numpy(tokens.astype(np.int64))
    children = {}
    for path, _ in walk(trie):
        for depth, token in enumerate(path):
            children.setdefault(path[:depth], set()).add(token)
    rows = []
    for row in source:
        repeated = row[row != 0].expand(len(labels), -1)
        logits = model(input_ids=repeated, labels=labels).logits
        if renormalise:
            illegal = torch.ones_like(logits, dtype=torch.bool)
            for item, path in enumerate(tokens.tolist()):
                for depth in range(len(path)):
                    illegal[item, depth, list(children[tuple(path[:depth])])] = False
            logits = logits.masked_fill(illegal, float("-inf"))
        rows.append(logits.log_softmax(-1).gather(2, labels[..., None])[..., 0].mean(1))
    return torch.stack(rows)
