"""What each collaborative member scores histories by: one mapping for the stage that fits them and for who serves them.

bpr is not among them: it scores users of the run, and no histories.

Letters: B users of a block, N items.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from tessera.params import Params
from tessera.recommender.corpus import Histories
from tessera.recommender.factors import AlsSettings, als_of, als_scores
from tessera.recommender.lists import Floats
from tessera.recommender.strengths import Sparse, strength_scores
from tessera.runtime import torch_device

#: The members whose scores are strengths of items for items.
BY_STRENGTH: Final = ("itemknn", "slist")


class Fitted(NamedTuple):
    """What the members learned, each asked for only where it is a member."""

    strengths: Callable[[str], Sparse]  # of one of BY_STRENGTH, (N, N)
    factors: Callable[[], pl.DataFrame]  # of the items by ALS, a table of VECTORS
    encoder: Path  # the folder of the sequence encoder


def scorer_of(
    member: str, fitted: Fitted, *, items: int, params: Params, device: str | None = None
) -> Callable[[Histories], Floats]:
    """Return what gives histories the scores (B, N) of all items, N = items, by the system that member names.

    device is as the parameter of that name, which holds where none is given.
    """
    if member in BY_STRENGTH:
        recency = (params.itemknn if member == "itemknn" else params.slist).recency
        return partial(strength_scores, fitted.strengths(member), recency=recency)
    if member == "als":
        return partial(als_scores, als_of(fitted.factors(), settings=AlsSettings(**params.als.model_dump())))
    from tessera.recommender.sequence_encoder import load_encoder, sequence_scores

    trained = load_encoder(fitted.encoder, kind=member, items=items, max_history=params.corpus.max_history)
    return partial(sequence_scores, trained.to(torch_device(device or params.device)))
