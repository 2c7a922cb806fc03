"""K-means of an encoder's vectors into pseudo-labels, beside scikit-learn's `KMeans`.

Both get the same vectors, which fall into clusters that are not quite apart and have a falling spectrum, as embeddings
do; the same number of starts; and all threads. What counts is the inertia in the full space, computed for both from
their labels in double precision: ours must be at most 1 % larger.

The limit is what any k-means has to do in full width: give every vector its nearest centre twice, once to move the
centres and once to find them settled, 4 N K D operations, at the matrix rate measured in the same run.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from embeddings import Embeddings
from numpy.typing import NDArray
from side_by_side import Case, Growth, alternate, matrix_rate, median_seconds, report
from sklearn.cluster import KMeans

from tessera.items.clusters import Labels, Vectors, cluster

ITERATIONS = 300
SEED = 0
WORSE = 1.01

#: Categories that the vectors are drawn from.
CATEGORIES = 600


class Work(NamedTuple):
    """What is to be clustered, and from how many starts."""

    items: int
    width: int
    clusters: int
    starts: int

    @classmethod
    def of(cls, text: str) -> "Work":
        """Return the work that text spells, as in 6250x4096x512x10."""
        return cls(*map(int, text.split("x")))


DEFAULT = ("2000x2048x128x10", "30000x256x128x1")
FULL = ("6250x4096x512x10", "200000x768x512x1")

#: The shares of the items of the last work of which the growth is measured.
SHARES = (0.125, 0.25, 0.5, 1.0)


def main(
    work: Annotated[list[str] | None, typer.Option(help="ITEMSxWIDTHxCLUSTERSxSTARTS instead; several times.")] = None,
    runs: Annotated[int, typer.Option(help="Alternating runs.")] = 1,
    full: Annotated[bool, typer.Option("--full", help="6,250 x 4,096 and 200,000 x 768, K = 512.")] = False,
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Compare both on each work."""
    works = [Work.of(each) for each in work or (FULL if full else DEFAULT)]
    cases = [compared(each, runs=runs) for each in works]
    report("cluster", cases, growth=[grown(works[-1])], to=to)


def compared(work: Work, *, runs: int) -> Case:
    """Return the comparison on one work."""
    rate = matrix_rate()  # imports torch, too, which is no part of the work
    vectors = drawn(work)
    peer = KMeans(work.clusters, n_init=work.starts, max_iter=ITERATIONS, random_state=SEED)
    both = alternate(peer=lambda: peer.fit_predict(vectors), ours=lambda: clustered(vectors, work), runs=runs)
    theirs, ours = inertia(vectors, both.peers_result), inertia(vectors, both.our_result)
    if ours > WORSE * theirs:
        raise AssertionError(f"{work}: expected an inertia of at most {WORSE} times {theirs}, found {ours}")
    operations = 4 * work.items * work.clusters * work.width
    return Case(
        f"{work.items:,} x {work.width:,}, K = {work.clusters}, starts: {work.starts}",
        "items/s",
        peer=work.items / both.peer,
        ours=work.items / both.ours,
        limit=work.items / (operations / rate),
        facts={
            "seconds of ours": both.ours,
            "seconds of the peer": both.peer,
            "iterations of the peer": peer.n_iter_,
            "inertia per item of ours": ours / work.items,
            "inertia per item of the peer": theirs / work.items,
            "inertia of ours / of the peer": f"{ours / theirs:.5f}",
        },
    )


def grown(work: Work) -> Growth:
    """Return how our time grows with the items."""
    vectors = drawn(work)
    sizes = [max(work.clusters, int(share * work.items)) for share in SHARES]
    seconds = [median_seconds(lambda size=size: clustered(vectors[:size], work), runs=1) for size in sizes]  # type: ignore[misc]
    return Growth(f"k-means, D = {work.width}, K = {work.clusters}", "items", [float(size) for size in sizes], seconds)


def drawn(work: Work) -> Vectors:
    """Return the vectors of a work."""
    return Embeddings(width=work.width, categories=CATEGORIES).drawn(work.items)


def clustered(vectors: Vectors, work: Work) -> Labels:
    """Return our labels."""
    return cluster(vectors, clusters=work.clusters, initialisations=work.starts, iterations=ITERATIONS, seed=SEED)


def inertia(vectors: Vectors, labels: NDArray[np.integer[Any]]) -> float:
    """Return the sum of the squared distances of vectors (N, D) from the means of their clusters."""
    members = (vectors[labels == label].astype(np.float64) for label in np.unique(labels))
    return float(sum(np.square(own - own.mean(axis=0)).sum() for own in members))


if __name__ == "__main__":
    typer.run(main)
