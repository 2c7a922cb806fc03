"""Items that lack a modality: they take the path of the item that is most like them in another modality.

Their vectors are all the same, the mean, and so would be their codes: a crowd that says nothing of its members, and
that a few levels cannot tell apart. What a product's text is like tells more of its missing picture than the mean does.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.codes.collisions import Integers, Paths
from tessera.codes.rows import BLOCK, Rows, rows_in_block
from tessera.kmeans import gaps

Present = NDArray[np.bool_]

#: The square of how far vectors lie from 0 over that of how far from each other, from which single precision is too
#: little for the difference of two of them.
FAR = 100


def lend_paths(
    paths: Mapping[str, Paths], vectors: Mapping[str, Rows], present: Mapping[str, Present]
) -> dict[str, Paths]:
    """Return paths with those of absent items replaced.

    vectors (N, D) and present (N,) are those of each modality. An absent item takes the codes and residuals of the
    nearest (Euclidean) among the items that have both the modality and another one, the first such that it has itself;
    without one it keeps the path of the mean.
    """
    return {name: _lent(path, name, vectors, present) for name, path in paths.items()}


def _lent(path: Paths, modality: str, vectors: Mapping[str, Rows], present: Mapping[str, Present]) -> Paths:
    absent = ~present[modality]
    if not absent.any():
        return path
    lenders = np.arange(len(path.codes))
    for other in vectors:
        borrowers = np.flatnonzero(absent & present[other])
        donors = np.flatnonzero(present[modality] & present[other])
        if len(borrowers) and len(donors):
            lenders[borrowers] = _nearest_rows(vectors[other], borrowers, donors)
            absent = absent & ~present[other]
    return path._replace(codes=path.codes[lenders], residuals=path.residuals[lenders])


def _nearest_rows(vectors: Rows, points: Integers, places: Integers) -> Integers:
    """Return for each row of vectors (N, D) that points (B,) names the nearest (B,) of those that places (M,) names."""
    size = min(rows_in_block(vectors.shape[1]), math.isqrt(BLOCK))  # neither vectors nor distances take more
    return np.concatenate([_nearest_of(vectors, block, places, size=size) for block in _blocks(points, size)])


def _nearest_of(vectors: Rows, points: Integers, places: Integers, *, size: int) -> Integers:
    kind = _kind_for(vectors[torch.from_numpy(places[:size])])
    own = vectors[torch.from_numpy(points)].to(kind)
    closest, chosen = own.new_full((len(points),), torch.inf), torch.empty(len(points), dtype=torch.int64)
    for block in map(torch.from_numpy, _blocks(places, size)):
        distances, place = gaps(own, vectors[block].to(kind)).min(1)
        nearer = distances < closest
        closest, chosen = torch.where(nearer, distances, closest), torch.where(nearer, block[place], chosen)
    return chosen.numpy()


def _kind_for(some: Tensor) -> torch.dtype:
    """Return the type in which squares of differences keep enough digits, by some of the vectors (B, D)."""
    middle = some.mean(0)
    spread = (some - middle).square().sum(1).mean()
    return torch.double if middle.square().sum() > FAR * spread else torch.float


def _blocks(rows: Integers, size: int) -> Iterator[Integers]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
