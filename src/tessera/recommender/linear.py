"""What comes next by least squares: SLIST (Choi et al. 2021, arXiv 2103.16104).

Two questions are answered at once, with one matrix B (N, N): which items stand together in a user's sequence, X = X B,
and which come after those before, F = P B, where a row of P has what a user took before one of his steps and a row of
F what he took from there on, each the less the farther it is from that step. B has a closed form, no epoch and no
seed: as little machinery as a count, and better, since what one item explains is not counted again for another.

Letters: U users, N items, T training interactions, S steps (each training interaction but a user's first).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from scipy import sparse
from scipy.linalg import lapack

from tessera.errors import DataError
from tessera.recommender.lists import Floats, Integers
from tessera.recommender.strengths import Sparse

#: Items at most: the inverse of N x N numbers takes 8 bytes for each of them, which here is 3.2 GB. What is counted
#: beside it takes 12 bytes for each pair of items that share a user, three times: little, but where data are dense.
LARGEST: Final = 20_000

#: Entries of B that are smaller than this share of the largest of their column are 0. HR@10 and NDCG@10 of Instruments,
#: films and the demo shop are within 0.004 of those of all.
SMALLEST: Final = 0.02

#: Weights below this are not added up any more.
NEGLIGIBLE: Final = 1e-6

#: Entries of B computed at one time: 128 MiB of them.
ENTRIES: Final = 2**24

#: Side of the squares that are mirrored at one time, which stay in a core's own cache.
TILE: Final = 128


class SlistSettings(NamedTuple):
    """How B is fitted, and what a history counts for."""

    alpha: float  # weight of what stands together; what comes after has the rest of 1
    regularisation: float  # weight of the squared entries of B
    decay: float  # weight of a further step between an item and the step that it is before or after, below 1
    recency: float  # weight of a further step back in the history that is ranked for


def fit_slist(interactions: pl.DataFrame, *, items: int, settings: SlistSettings) -> Sparse:
    """Return how strongly each item calls for each other (N, N), N = items, by SLIST.

    interactions has columns user, item, position and split; only training interactions count. With X (U, N) 1 where
    a user took an item, and d steps from item to step weighing decay^d in P and F (S, N), B is what minimises

        alpha |X - X B|^2 + (1 - alpha) |F - P B|^2 + regularisation |B|^2,  where B[j, j] = 0 for each item j

    With C = alpha X'X + (1 - alpha) P'P + regularisation I and R = alpha X'X + (1 - alpha) P'F that is

        B = C^-1 (R - diag(m)),  m[j] = (C^-1 R)[j, j] / (C^-1)[j, j]

    Of that, what is small beside the rest of its column is left out (SMALLEST).

    Unlike the paper's unified model it holds the diagonal at 0, as EASE does (Steck 2019, arXiv 1905.03375, equation
    8), and it weighs no sequence by its age.

    Raises DataError where there is no training row, where there are more than LARGEST items, and where regularisation
    is so small that C has no inverse in double precision.
    """
    if items > LARGEST:
        raise DataError(
            f"slist: expected at most {LARGEST:,} items, found {items:,}, as it inverts a matrix of all pairs of them; "
            "itemknn takes any number"
        )
    train = interactions.filter(pl.col("split") == "train").sort("user", "position")
    if train.is_empty():
        raise DataError("training interactions: expected at least one, found none")
    users, sequence = train["user"].to_numpy(), train["item"].to_numpy().astype(np.int64)
    together = settings.alpha * _together(users, sequence, items=items)
    before, after = _before_and_after(users, sequence, items=items, decay=settings.decay)
    inverse = np.zeros((items, items), order="F")
    for counted in (together.tocoo(), ((1 - settings.alpha) * before).tocoo()):
        inverse[counted.coords] += counted.data
    wanted = (together + (1 - settings.alpha) * after).T.tocsr()
    del together, before, after, counted
    inverse[np.diag_indices(items)] += settings.regularisation
    _invert(inverse)
    return sparse.vstack(list(_columns(inverse.T, wanted))).T.tocsr()  # symmetric, and so in row order


def _together(users: Integers, sequence: Integers, *, items: int) -> Sparse:
    """Return X'X (N, N): how many users took both items."""
    taken = sparse.csr_array((np.ones(len(users)), (users, sequence)), shape=(int(users[-1]) + 1, items))
    taken.data[:] = 1.0  # however often one took it
    return (taken.T @ taken).tocsr()


def _before_and_after(users: Integers, sequence: Integers, *, items: int, decay: float) -> tuple[Sparse, Sparse]:
    """Return P'P and P'F, both (N, N), without a row for each step.

    Of a user's items a and b, b d steps after a and with m items after itself, P holds both at the m steps after b,
    with the weights decay^k and decay^(d + k) for k = 0..m-1, and P has a and F has b at the d steps up to b, with
    weights whose product is decay^(d - 1) at each.
    """
    last = np.append(np.flatnonzero(np.diff(users)), len(users) - 1)
    left = np.repeat(last, np.diff(last, prepend=-1)) - np.arange(len(users))  # m: items after each one
    both = (1 - decay ** (2.0 * left)) / (1 - decay**2)  # the sum of decay^2k over k = 0..m-1
    places = (sequence, sequence)
    before = sparse.coo_array((both, places), shape=(items, items)).tocsr()
    after = sparse.csr_array((items, items))
    for step in range(1, int(left.max()) + 1):
        if decay ** (step - 1) * step < NEGLIGIBLE:
            break
        is_pair = users[step:] == users[:-step]
        places = (sequence[:-step][is_pair], sequence[step:][is_pair])
        held = sparse.coo_array((decay**step * both[step:][is_pair], places), shape=(items, items)).tocsr()
        before = before + held + held.T
        told = np.full(len(places[0]), step * decay ** (step - 1))
        after = after + sparse.coo_array((told, places), shape=(items, items)).tocsr()
    return before, after


def _invert(matrix: Floats) -> None:
    """Put its inverse in the place of a positive definite matrix (N, N) in column order, with no other of its size."""
    _, failed = lapack.dpotrf(matrix, lower=True, overwrite_a=True)
    failed = failed or lapack.dpotri(matrix, lower=True, overwrite_c=True)[1]
    if failed:
        raise DataError("slist.regularisation: expected one with which C has an inverse, found one too small")
    for start in range(0, len(matrix), TILE):  # LAPACK leaves the upper triangle as it was
        here = slice(start, start + TILE)
        matrix[here, here] = np.tril(matrix[here, here]) + np.tril(matrix[here, here], -1).T
        for other in range(start + TILE, len(matrix), TILE):
            there = slice(other, other + TILE)
            matrix[here, there] = matrix[there, here].T


def _columns(inverse: Floats, wanted: Sparse) -> Iterator[Sparse]:
    """Yield B (N, N) by columns, each block of them as rows, from C^-1 and R' (N, N)."""
    size = max(1, ENTRIES // len(inverse))
    for start in range(0, len(inverse), size):
        columns = wanted[start : start + size] @ inverse
        rows = np.arange(len(columns))
        own = columns[rows, start + rows] / inverse[start + rows, start + rows]
        columns -= own[:, None] * inverse[start : start + size]
        columns[rows, start + rows] = 0.0
        sizes = np.abs(columns)
        columns[sizes < SMALLEST * sizes.max(axis=1, keepdims=True)] = 0.0
        yield sparse.csr_array(columns)
