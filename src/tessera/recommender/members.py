"""How each collaborative member ranks after histories: one mapping for the stage that fits them and who serves them.

bpr is not among them: it scores users of the run, and no histories. Letters: N items.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tessera.recommender.factors import AlsSettings, als_of, als_scores
from tessera.recommender.lists import HistoryRanker, rank_histories
from tessera.recommender.strengths import Sparse, rank_by_strength


class Fitted(NamedTuple):
    """What the members learned, each asked for only where it is a member, and what they need beside it."""

    recency: Mapping[str, float]  # of each member that scores by strengths of items for items
    strengths: Callable[[str], Sparse]  # of one of them, (N, N)
    als: AlsSettings
    factors: Callable[[], pl.DataFrame]  # of the items by ALS, a table of VECTORS
    encoder: Path  # the folder of the sequence encoder
    device: Callable[[], Any]  # where that runs, a torch.device


def ranker_of(member: str, fitted: Fitted, *, items: int, max_history: int) -> HistoryRanker:
    """Return what ranks items 0..items-1 after histories by the system that member names."""
    if member in fitted.recency:
        return partial(rank_by_strength, fitted.strengths(member), recency=fitted.recency[member])
    if member == "als":
        return partial(rank_histories, partial(als_scores, als_of(fitted.factors(), settings=fitted.als)), items=items)
    from tessera.recommender.sequence_encoder import load_encoder, sequence_scores

    trained = load_encoder(fitted.encoder, kind=member, items=items, max_history=max_history)
    return partial(rank_histories, partial(sequence_scores, trained.to(fitted.device())), items=items)
