"""Pseudo-labels: which items look alike in one modality, found by k-means (MACRec, arXiv 2511.15122)."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError
from tessera.items.vectors import parts_of

#: An iteration of k-means that lowers the inertia by a smaller part of it is the last.
TOLERANCE = 5e-4

Vectors = NDArray[np.float32]
Labels = NDArray[np.int32]


def cluster(vectors: Vectors, *, clusters: int, initialisations: int, iterations: int, seed: int) -> Labels:
    """Return the k-means label (N,) of each vector (N, D): of several initialisations the one of least inertia.

    Labels that no vector gets are possible where fewer than clusters vectors are distinct.
    """
    import torch

    from tessera.kmeans import kmeans

    found = kmeans(
        torch.from_numpy(vectors),
        size=clusters,
        starts=initialisations,
        iterations=iterations,
        tolerance=TOLERANCE,
        generator=torch.Generator().manual_seed(seed),
    )
    return found.assigned.numpy().astype(np.int32)


def label_items(
    items: pl.DataFrame,
    vectors: Vectors,
    *,
    modality: str,
    clusters: int,
    initialisations: int,
    iterations: int,
    seed: int,
) -> pl.DataFrame:
    """Return the table item, modality, label of items (item, present); an absent item's label is null.

    vectors (P, D) are those of the items that are present, in their order.

    Raises DataError where there are more clusters than present items, or a vector is not finite.
    """
    if len(vectors) < clusters:
        raise DataError(
            f"{modality}: expected pseudo.clusters = {clusters} to be at most the number of items that have the "
            f"modality, found {len(vectors)} such items of {items.height}"
        )
    broken = sum(int((~np.isfinite(vectors[part])).any(axis=1).sum()) for part in parts_of(vectors))
    if broken:
        raise DataError(f"{modality}: expected finite vectors, found {broken} items with NaN or infinity")
    found = cluster(vectors, clusters=clusters, initialisations=initialisations, iterations=iterations, seed=seed)
    labels = items.filter("present").select("item", label=pl.Series(found).cast(pl.UInt32))
    return items.select("item", modality=pl.lit(modality)).join(labels, on="item", how="left", maintain_order="left")


def cluster_metrics(vectors: Vectors, labels: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Return inertia per present item, clusters that have items, and the sizes of the smallest and the largest of them.

    vectors (P, D) and labels (P,) are those of the present items. Inertia is the squared Euclidean distance of an item
    to the mean of its cluster: items 0 and 2 in one cluster give 1 per item.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    members = (vectors[rows] for rows in np.split(order, starts[1:]))
    inertia = sum(float(np.square(own - own.mean(axis=0, dtype=np.float64)).sum()) for own in members)
    return {
        "inertia_per_item": inertia / len(vectors),
        "clusters_used": len(sizes),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }
