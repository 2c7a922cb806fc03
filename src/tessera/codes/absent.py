"""Items that lack a modality: they take the path of the item that is most like them in another modality.

Their vectors are all the same, the mean, and so would be their codes: a crowd that says nothing of its members, and
that a few levels cannot tell apart. What a product's text is like tells more of its missing picture than the mean does.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.codes.collisions import Paths
from tessera.codes.quantizer import rows_in_block
from tessera.kmeans import nearest

Present = NDArray[np.bool_]


def lend_paths(
    paths: Mapping[str, Paths], vectors: Mapping[str, NDArray[np.float32]], present: Mapping[str, Present]
) -> dict[str, Paths]:
    """Return paths with those of absent items replaced.

    vectors (N, D) and present (N,) are those of each modality. An absent item takes the codes and residuals of the
    nearest (Euclidean) among the items that have both the modality and another one, the first such that it has itself;
    without one it keeps the path of the mean.
    """
    return {name: _lent(path, name, vectors, present) for name, path in paths.items()}


def _lent(
    path: Paths, modality: str, vectors: Mapping[str, NDArray[np.float32]], present: Mapping[str, Present]
) -> Paths:
    absent = ~present[modality]
    if not absent.any():
        return path
    lenders = np.arange(len(path.codes))
    for other in vectors:
        borrowers = np.flatnonzero(absent & present[other])
        donors = np.flatnonzero(present[modality] & present[other])
        if len(borrowers) and len(donors):
            lenders[borrowers] = donors[_nearest_rows(vectors[other][borrowers], vectors[other][donors])]
            absent = absent & ~present[other]
    return path._replace(codes=path.codes[lenders], residuals=path.residuals[lenders])


def _nearest_rows(points: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each of points (B, D) the index (B,) of the nearest of places (M, D)."""
    targets = torch.from_numpy(places)
    blocks = torch.from_numpy(points).split(rows_in_block(len(places)))
    return torch.cat([nearest(block, targets) for block in blocks]).numpy()
