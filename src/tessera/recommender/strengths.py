"""How strongly each item calls for each other: what rankings by counting and by least squares both recommend by.

Letters: B users of a block, N items.
"""

from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from tessera.recommender.corpus import Histories
from tessera.recommender.lists import Floats, log_shares

#: A sparse matrix of SciPy.
Sparse = Any


def strength_scores(strengths: Sparse, found: Histories, *, recency: float) -> Floats:
    """Return the log-shares (B, N) of each item in what the histories of found call for, as strengths (N, N) says.

    An item's strength is the sum of its column over the items of the history, each step back from the last at
    `recency` of the step before; its share is that of the strength of all items. What nothing calls for is IMPOSSIBLE.
    """
    ends = np.cumsum(found.lengths)
    back = np.repeat(ends, found.lengths) - 1 - np.arange(ends[-1] if len(ends) else 0)
    history = sparse.csr_array(
        (recency ** back.astype(np.float64), found.before, np.concatenate([[0], ends])),
        shape=(len(found.lengths), strengths.shape[0]),
    )
    return log_shares((history @ strengths).toarray())


def strengths_table(strengths: Sparse) -> pl.DataFrame:
    """Return strengths (N, N) as a table of STRENGTHS, sorted: a row for each item and each that it calls for."""
    found = strengths.tocoo()
    item, following = found.coords
    columns = {"item": item.astype(np.uint32), "next": following.astype(np.uint32), "strength": found.data}
    return pl.DataFrame(columns).sort("item", "next")


def strengths_in(table: pl.DataFrame, *, items: int) -> Sparse:
    """Return the strengths (N, N) that a table of STRENGTHS holds, N = items."""
    places = (table["item"].to_numpy(), table["next"].to_numpy())
    return sparse.csr_array((table["strength"].to_numpy(), places), shape=(items, items))
