"""Vectors as encoders make them: a falling spectrum, and clusters of unequal sizes that are not quite apart."""

import numpy as np
from numpy.typing import NDArray

#: How fast the spread falls from one direction to the next, and the sizes from one category to the next.
SPECTRUM, SHARES = 0.5, 0.7

#: Groups that the categories fall into, and how much of a category's place is its group's.
GROUPS, KINSHIP = 30, 0.8


class Embeddings:
    """Categories in a space of some width, from which vectors are drawn part by part."""

    def __init__(self, *, width: int, categories: int, seed: int = 0) -> None:
        self._draw = np.random.default_rng(seed)
        self._spectrum = np.arange(1, width + 1, dtype=np.float32) ** -SPECTRUM
        groups = self._draw.standard_normal((GROUPS, width), np.float32)
        own = self._draw.standard_normal((categories, width), np.float32)
        self._centres = own + KINSHIP * groups[self._draw.integers(0, GROUPS, categories)]
        shares = np.arange(1, categories + 1) ** -SHARES
        self._shares = shares / shares.sum()

    def drawn(self, items: int) -> NDArray[np.float32]:
        """Return further vectors (items, width)."""
        vectors = self._draw.standard_normal((items, len(self._spectrum)), np.float32)
        vectors += self._centres[self._draw.choice(len(self._centres), items, p=self._shares)]
        vectors *= self._spectrum
        return vectors
