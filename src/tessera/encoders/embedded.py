"""What comes of embedding items in one modality."""

from typing import NamedTuple

from tessera.items.fitted import Fitted
from tessera.items.vectors import Vectors


class Embedded(NamedTuple):
    """Vectors of N items, what is to be told of what they were made from, and what embeds other items so."""

    vectors: Vectors
    counts: dict[str, float]
    fitted: Fitted
