"""What comes next by counting, with nothing learned: how often one item follows another, weighted by their distance.

A sober floor for every trained system: it takes seconds, and a trained one has to be clearly better. No paper
publishes it. Letters: N items, T training interactions.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from tessera.recommender.strengths import Sparse


class Weights(NamedTuple):
    """How transitions count."""

    reach: int  # steps, the farthest at which one item still follows another
    decay: float  # weight of a further step between the two
    reverse: float  # weight of the same pair in the opposite order
    column_power: float  # how much a frequent follower is held back
    row_power: float  # how much an item with many followers is held back
    recency: float  # weight of a further step back in the history that is ranked for


def transition_matrix(interactions: pl.DataFrame, *, items: int, weights: Weights) -> Sparse:
    """Return how strongly each item calls for each other (N, N), N = items: row a holds what follows a.

    interactions has columns user, item, position and split; only training interactions count.

        C[a, b] = sum over a user's pairs a, b with b d steps after a, d = 1..reach, of decay^(d - 1)
        W = C + reverse * C^T
        W'[a, b] = W[a, b] / (sum over a of W[a, b] + 1)^column_power
        W''[a, b] = W'[a, b] / (sum over b of W'[a, b])^row_power

    With decay 0.5 and reverse 0 the sequence 7, 8, 9 adds 1 to C[7, 8] and C[8, 9] and 0.5 to C[7, 9].
    """
    ordered = interactions.filter(pl.col("split") == "train").sort("user", "position")
    users, sequence = ordered["user"].to_numpy(), ordered["item"].to_numpy()
    counts = sparse.csr_array((items, items), dtype=np.float64)
    for step in range(1, min(weights.reach, len(users) - 1) + 1):
        is_pair = users[step:] == users[:-step]
        before, after = sequence[:-step][is_pair], sequence[step:][is_pair]
        values = np.full(len(before), weights.decay ** (step - 1))
        counts = counts + sparse.coo_array((values, (before, after)), shape=counts.shape).tocsr()
    both = (counts + weights.reverse * counts.T).tocsr()
    held_back = both @ sparse.diags_array((both.sum(axis=0) + 1) ** -weights.column_power)
    sums = held_back.sum(axis=1)
    return sparse.diags_array(np.power(sums, -weights.row_power, where=sums > 0, out=np.zeros(items))) @ held_back
