"""Pseudo-labels: which items look alike in one modality, found by k-means (MACRec, arXiv 2511.15122)."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.errors import DataError

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
    vectors: pl.DataFrame, *, modality: str, clusters: int, initialisations: int, iterations: int, seed: int
) -> pl.DataFrame:
    """Return the table item, modality, label of vectors (item, vector, present); an absent item's label is null.

    Raises DataError where there are more clusters than present items, or a vector is not finite.
    """
    present = vectors.filter("present")
    if present.height < clusters:
        raise DataError(
            f"{modality}: expected pseudo.clusters = {clusters} to be at most the number of items that have the "
            f"modality, found {present.height} such items of {vectors.height}"
        )
    matrix = present["vector"].to_numpy(writable=True)
    broken = int((~np.isfinite(matrix)).any(axis=1).sum())
    if broken:
        raise DataError(f"{modality}: expected finite vectors, found {broken} items with NaN or infinity")
    found = cluster(matrix, clusters=clusters, initialisations=initialisations, iterations=iterations, seed=seed)
    labels = present.select("item", label=pl.Series(found).cast(pl.UInt32))
    return vectors.select("item", modality=pl.lit(modality)).join(labels, on="item", how="left", maintain_order="left")


def cluster_metrics(vectors: pl.DataFrame, labels: pl.DataFrame) -> dict[str, float]:
    """Return inertia per present item, clusters that have items, and the sizes of the smallest and the largest of them.

    vectors (item, vector, present) and labels (item, label) hold one modality. Inertia is the squared Euclidean
    distance of an item to the mean of its cluster: items 0 and 2 in one cluster give 1 per item.
    """
    labelled = vectors.join(labels.drop_nulls("label"), on="item").sort("label")
    matrix = labelled["vector"].to_numpy()
    _, starts, sizes = np.unique(labelled["label"].to_numpy(), return_index=True, return_counts=True)
    members = np.split(matrix, starts[1:])
    inertia = sum(float(np.square(own - own.mean(axis=0, dtype=np.float64)).sum()) for own in members)
    return {
        "inertia_per_item": inertia / len(matrix),
        "clusters_used": len(sizes),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }
