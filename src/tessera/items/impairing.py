"""Vectors made worse on purpose, to see how much a system depends on them: taken away, exchanged, or blurred.

Which items it concerns follows from their keys, the modality and a seed (`hashing.drawn`): a larger share concerns the
items of a smaller one and more, and text and pictures are drawn independently, so that some items lose both.
Letters: N items, of which M are not taken away, D width.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError
from tessera.items.hashing import drawn
from tessera.items.vectors import Vectors, parts_of


class Impairment(NamedTuple):
    """How the vectors that a modality still has are made worse; zeros leave them as they are."""

    swapped: float  # share of the items whose vectors go round among them
    noise: float  # deviation of the noise, in deviations of the vectors
    seed: int  # says which items, and which noise


def remaining(keys: pl.Series, *, missing: float, seed: int, modality: str) -> NDArray[np.bool_]:
    """Return (N,) which items keep what they have of the modality: all but round(missing * N) of them.

    The others are to be left out before anything is embedded, so that no encoder learns from them.

    Raises DataError where none is left.
    """
    kept = np.ones(len(keys), np.bool_)
    kept[drawn(keys, share=missing, purpose=f"{modality} missing", seed=seed)] = False
    if len(kept) and not kept.any():
        raise DataError(f"{modality}.missing = {missing}: expected an item to be left of {len(kept)}")
    return kept


class Impaired(NamedTuple):
    """Vectors made worse, and how many items that concerned, by what was done; nothing of what was not."""

    vectors: Vectors  # of N items
    counts: dict[str, float]


def impaired(
    found: Vectors, kept: NDArray[np.bool_], impairment: Impairment, *, keys: pl.Series, modality: str
) -> Impaired:
    """Return the vectors (N, D) of the items with these keys (N,) out of those found (M, D) of the kept ones.

    Where all are kept, it is those found that are made worse.

    Items that are not kept are absent. Of the items drawn to swap those that are present each take the vector of the
    next one drawn, and the last that of the first. Noise is Gaussian and independent in each number of each vector;
    its standard deviation is `noise` times the root of the mean square by which the numbers of present vectors differ
    from their mean in that dimension: with 1, vectors move as far as they lie from their mean, in the mean square.
    """
    vectors, present = found
    if not kept.all():
        vectors = np.zeros((len(kept), found.vectors.shape[1]), np.float32)
        present = np.zeros(len(kept), np.bool_)
        vectors[kept], present[kept] = found.vectors, found.present
    swapping = drawn(keys, share=impairment.swapped, purpose=f"{modality} swapped", seed=impairment.seed)
    swapping = swapping[present[swapping]]
    vectors[swapping] = vectors[np.roll(swapping, -1)]
    if impairment.noise:
        generator = np.random.default_rng([impairment.seed, *modality.encode()])
        deviation = impairment.noise * _deviation(vectors[present])
        for part in parts_of(vectors):
            vectors[part] += np.float32(deviation) * generator.standard_normal(vectors[part].shape, dtype=np.float32)
    counts = {"made_missing": int((~kept).sum()), "swapped": len(swapping)}
    return Impaired(Vectors(vectors, present), {name: count for name, count in counts.items() if count})


def _deviation(vectors: NDArray[np.float32]) -> float:
    """Return the root of the mean square by which vectors (M, D) differ from their mean; 0 where there are none."""
    return float(np.sqrt(np.var(vectors, axis=0, dtype=np.float64).mean())) if vectors.size else 0.0
