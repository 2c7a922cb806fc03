"""Scores of all items by strengths, one number for each: what ranking by them is compared with."""

import numpy as np

from tessera.recommender.lists import log_shares


def strength_scores(strengths, found, *, recency):
    """Return the log-shares (B, N) of each item in what the histories of found call for."""
    table = strengths.toarray()
    histories = np.split(found.before, np.cumsum(found.lengths)[:-1])
    sums = [sum(recency**back * table[item] for back, item in enumerate(items[::-1])) for items in histories]
    return log_shares(np.array(sums).reshape(len(histories), len(table)))
