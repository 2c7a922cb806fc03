"""What a set of semantic IDs looks like: how many items share one, and how evenly each level uses its codes."""

from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.codes.collisions import Integers, packed
from tessera.usage import levels

#: What `usage` returns.
USAGE: Final = {"modality": pl.String, "level": pl.Int64, "place": pl.Int64, "share": pl.Float64}


class Collisions(NamedTuple):
    """How many items share an ID."""

    collision_rate: float  # percent
    largest_group: int


def collisions(codes: Integers) -> Collisions:
    """Return how many items share their codes (N, L): rate = (items - distinct codes) / items, in percent (MACRec).

    Four items of codes [1], [1], [1], [2] have a rate of 50 % and a largest group of 3. No items: 0 and 0.
    """
    if len(codes) == 0:
        return Collisions(0.0, 0)
    _, counts = np.unique(packed(codes, size=int(codes.max()) + 1), return_counts=True)
    return Collisions(100 * (len(codes) - len(counts)) / len(codes), int(counts.max()))


def summary(first: Integers, codes: Integers, *, present: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Return the metrics of one modality: of its codes (N, L), and of what they were before collisions were resolved.

    An item is moved if it lost a code; a code that it got in addition moves nobody. What was before, and who moved, is
    told of the items that are present (N,): the others had the codes of one that is, which says nothing of the
    quantizer.
    """
    here = np.ones(len(first), np.bool_) if present is None else present
    quantised = first[here]
    before, after = collisions(quantised), collisions(codes)
    return {
        "collision_rate_before": before.collision_rate,
        "collision_rate_after": after.collision_rate,
        "largest_group_before": before.largest_group,
        "largest_group_after": after.largest_group,
        "items_moved": int((codes[here, : first.shape[1]] != quantised).any(axis=1).sum()),
        "levels": {str(level): usage._asdict() for level, usage in enumerate(levels(codes))},
        "levels_before": {str(level): usage._asdict() for level, usage in enumerate(levels(quantised))},
    }


def usage(codes: Integers, *, modality: str, size: int, quantised: int | None = None) -> pl.DataFrame:
    """Return how even each level of codes (N, L) of a modality is: the share of the items that each code has.

    A level's codes stand by their place, from 1, the most used first (MACRec, figure 4); unused ones of its codebook of
    size end the row with 0. Only so many levels as are quantised, by default all, have a codebook: one beyond them,
    which separates collisions, has the codes that are used.
    """
    with_codebook = codes.shape[1] if quantised is None else quantised
    shares = [_shares(column, size=size if level < with_codebook else 0) for level, column in enumerate(codes.T)]
    return pl.concat(
        [pl.DataFrame(schema=USAGE)]
        + [
            pl.DataFrame(
                {"modality": modality, "level": level, "place": range(1, len(share) + 1), "share": share}, schema=USAGE
            )
            for level, share in enumerate(shares)
        ]
    )


def _shares(codes: Integers, *, size: int) -> NDArray[np.float64]:
    counts = np.bincount(codes, minlength=size)
    counts = counts if size else counts[counts > 0]
    return np.sort(counts)[::-1] / max(1, len(codes))
