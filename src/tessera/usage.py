"""How evenly each level of some codes uses them: what tells a healthy set of codes from a collapsed one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Level(NamedTuple):
    """How one level uses its codes."""

    codes_used: int
    perplexity: float  # 2 ** entropy: as many codes used evenly would be as surprising
    entropy: float  # in bits


def levels(codes: Integers) -> list[Level]:
    """Return how each of the L levels of codes (N, L) uses its codes; no items use none."""
    return [level_of(column) for column in codes.T]


def level_of(codes: Integers) -> Level:
    """Return how a level uses its codes (N,)."""
    if len(codes) == 0:
        return Level(0, 0.0, 0.0)
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / len(codes)
    # The sum of one share of 1 is -0.0.
    entropy = float(abs(np.sum(shares * np.log2(shares))))
    return Level(len(counts), 2**entropy, entropy)
