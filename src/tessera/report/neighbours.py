"""Which items are near each other in each modality, and whether the modalities and the IDs agree on it."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

#: Items among which neighbours are looked for, and those whose neighbours are compared; drawn where there are more.
CANDIDATES: Final = 20_000
COMPARED: Final = 1_000

#: Neighbours of an item that are compared, those that are shown, and items whose neighbours are shown.
NEAREST: Final = 10
SHOWN_NEAREST: Final = 8
SHOWN_QUERIES: Final = 6

#: Items of which one can be near another and a third can not.
FEWEST: Final = 3

#: Similarities that are in memory at a time.
BLOCK: Final = 5_000_000


class Neighbour(NamedTuple):
    """An item near another."""

    key: str
    title: str
    similarity: float
    elsewhere: bool  # among the nearest in another modality too


class Query(NamedTuple):
    """An item and its nearest in each modality."""

    key: str
    title: str
    nearest: dict[str, list[Neighbour]]


class Shared(NamedTuple):
    """What share of an item's nearest two modalities have in common, as a mean over items."""

    modalities: tuple[str, str]
    share: float


class SameCode(NamedTuple):
    """What share of an item's nearest have the same first code, as a mean over items, and that of all other items."""

    modality: str
    nearest: float
    others: float


class Neighbours(NamedTuple):
    """What the vectors say of nearness."""

    candidates: int
    compared: int
    by_chance: float  # share of the nearest that two random choices have in common
    shared: list[Shared]
    kept: list[SameCode]
    queries: list[Query]


def draw_items(items: int, *, most: int = CANDIDATES, generator: np.random.Generator) -> Integers:
    """Return the numbers of at most so many items, drawn and sorted."""
    return np.sort(generator.choice(items, size=min(items, most), replace=False)).astype(np.int64)


def neighbours_of(
    vectors: Mapping[str, pl.DataFrame], ids: pl.DataFrame, items: pl.DataFrame, *, generator: np.random.Generator
) -> Neighbours | None:
    """Return how near items are to each other in vectors: item, vector and present of the same items in each modality.

    ids has item, modality and codes; items has item, key and title. Items that lack one of the modalities are left out.
    None where fewer than three items are left or there is no modality.
    """
    if not vectors:
        return None
    there = np.logical_and.reduce([table["present"].to_numpy() for table in vectors.values()])
    places = np.flatnonzero(there)
    if len(places) < FEWEST:
        return None
    numbers = next(iter(vectors.values()))["item"].gather(places)
    named = pl.DataFrame({"item": numbers}).join(items, on="item", maintain_order="left").select("key", "title").rows()
    count = min(NEAREST, len(places) - 2)
    queries = np.sort(generator.choice(len(places), size=min(COMPARED, len(places)), replace=False))
    shown = np.sort(generator.choice(len(queries), size=min(SHOWN_QUERIES, len(queries)), replace=False))
    found = {name: nearest(unit_rows(table, places), queries, count=count) for name, table in vectors.items()}
    codes = {name: _first_codes(ids.filter(modality=name), numbers) for name in vectors if name in ids["modality"]}
    return Neighbours(
        candidates=len(places),
        compared=len(queries),
        by_chance=count / (len(places) - 1),
        shared=[
            Shared((one, other), overlap(found[one].places, found[other].places))
            for one, other in combinations(vectors, 2)
        ],
        kept=[SameCode(name, *same_code(code, queries, found[name].places)) for name, code in codes.items()],
        queries=[_query(row, queries, found, named) for row in shown],
    )


def _first_codes(ids: pl.DataFrame, numbers: pl.Series) -> Integers:
    """Return the first code of each of the items with these numbers."""
    codes = pl.DataFrame({"item": numbers}).join(ids, on="item", maintain_order="left")["codes"].list.first()
    return codes.to_numpy().astype(np.int64)


class Nearest(NamedTuple):
    """The nearest rows of each query, the nearest first."""

    places: Integers  # (Q, count)
    similarities: Floats  # (Q, count)


def unit_rows(table: pl.DataFrame, places: Integers) -> Floats:
    """Return the vectors of table at places as rows of length 1; a vector of nothing stays nothing."""
    rows = table["vector"].to_numpy()[places].astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def nearest(rows: Floats, queries: Integers, *, count: int) -> Nearest:
    """Return the nearest of rows (N, D) by inner product to each of those at queries (Q,), itself left out.

    Of two that are as near the earlier row comes first.
    """
    places, similarities = [], []
    for start in range(0, len(queries), step := max(1, BLOCK // len(rows))):
        block = queries[start : start + step]
        near = rows[block] @ rows.T
        near[np.arange(len(block)), block] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        places.append(order)
        similarities.append(np.take_along_axis(near, order, axis=1))
    return Nearest(np.concatenate(places), np.concatenate(similarities))


def overlap(one: Integers, other: Integers) -> float:
    """Return the mean share of a row of one (Q, K) that stands in the same row of other: [[1, 2]], [[2, 3]] is 0.5."""
    return float((one[:, :, None] == other[:, None, :]).any(axis=2).mean())


def same_code(codes: Integers, queries: Integers, near: Integers) -> tuple[float, float]:
    """Return the mean share of each query's near (Q, K) that have its code, and of all other items; codes (N,)."""
    own = codes[queries]
    sizes = np.bincount(codes)
    return float((codes[near] == own[:, None]).mean()), float(((sizes[own] - 1) / (len(codes) - 1)).mean())


def _query(row: int, queries: Integers, found: Mapping[str, Nearest], named: Sequence[tuple[str, str]]) -> Query:
    sets = {name: set(each.places[row].tolist()) for name, each in found.items()}
    lists = {}
    for name, each in found.items():
        others: set[int] = set().union(*(known for other, known in sets.items() if other != name))
        pairs = zip(each.places[row, :SHOWN_NEAREST].tolist(), each.similarities[row].tolist(), strict=False)
        lists[name] = [
            Neighbour(named[place][0], named[place][1], similarity, place in others) for place, similarity in pairs
        ]
    key, title = named[queries[row]]
    return Query(key, title, lists)
