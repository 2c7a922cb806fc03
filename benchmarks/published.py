"""The T5 of the published size, and how many operations its products take: what training and ranking are held against.

Letters: D width of the model, I = heads times their width, F feed-forward width, V tokens of the vocabulary.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from instruments import Instruments
from numpy.typing import NDArray
from paper import PAPER
from transformers import T5ForConditionalGeneration

from tessera.recommender.model import Sizes, new_model
from tessera.recommender.vocabulary import Tokens, Vocabulary

SIZES = Sizes(**PAPER.t5.model_dump(include=set(Sizes._fields)))

#: A product of a row of m numbers with a matrix of m x n takes so many operations for each of the m * n.
MULTIPLY_AND_ADD = 2

#: The backward pass takes two products for each one of the forward pass.
FORWARD_AND_BACKWARD = 3


class Vocabularies(NamedTuple):
    """What all models of a data set share."""

    vocabulary: Vocabulary
    tokens: Mapping[str, Tokens]  # modality -> (N, L)

    def model(self, *, seed: int = 0) -> T5ForConditionalGeneration:
        """Return a T5 of the published size, its weights drawn from seed."""
        return new_model(self.vocabulary, self.tokens, SIZES, seed=seed)


def vocabularies(data: Instruments) -> Vocabularies:
    """Return the vocabulary of all six tasks of data, and its items' tokens."""
    vocabulary = data.vocabulary()
    return Vocabularies(vocabulary, {m: vocabulary.tokens(m, codes) for m, codes in data.codes.items()})


def encoder_operations(lengths: NDArray[np.int64], *, sizes: Sizes = SIZES) -> float:
    """Return the operations of encoding sources of lengths (B,), the cross-attention's keys and values included."""
    width, inner, wide = sizes.d_model, sizes.heads * sizes.d_kv, sizes.d_ff
    attention = 4 * width * inner * lengths + 2 * inner * lengths**2
    layer = attention + 2 * width * wide * lengths
    crossing = 2 * width * inner * lengths
    total = sizes.encoder_layers * layer + sizes.decoder_layers * crossing
    return float(MULTIPLY_AND_ADD * total.sum())


def decoder_operations(
    *, tokens: int, seen: float, lengths: NDArray[np.int64], vocabulary: int, sizes: Sizes = SIZES
) -> float:
    """Return the operations of decoding tokens tokens a source, of which each attends to seen on average."""
    width, inner, wide = sizes.d_model, sizes.heads * sizes.d_kv, sizes.d_ff
    layer = 6 * width * inner + 2 * inner * seen + 2 * inner * lengths + 2 * width * wide
    return float(MULTIPLY_AND_ADD * tokens * (sizes.decoder_layers * layer + width * vocabulary).sum())
