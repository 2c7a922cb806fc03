"""The items nearest to one: by the levels of an ID that they share, and by their vectors.

Letters: N items, L levels, D width of a vector.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tessera.recommender.corpus import codes_by_modality
from tessera.using.shop import Shop

#: Vectors in memory at once as they are computed with.
ROWS: Final = 2**16


class Neighbours(NamedTuple):
    """The items nearest to one by one measure, the nearest first."""

    by: str  # the measure
    items: list[int]
    near: list[str]  # how near each is


def neighbours_of(shop: Shop, item: int, *, count: int) -> list[Neighbours]:
    """Return the items of shop nearest to item, count at most by each measure.

    By the ID in a modality those are near that begin with the most of its codes, of equals the first; only such as
    share one. By vectors of a modality those whose cosine is highest, among the items that have the modality.
    """
    found = []
    names = shop.ids["modality"].unique(maintain_order=True).to_list()
    for name, codes in codes_by_modality(shop.ids, names).items():
        shared = levels_shared(codes, item)
        items = nearest(shared, item, count=count, least=1)
        found.append(Neighbours(f"{name} ID", items, [f"{shared[each]} of {codes.shape[1]}" for each in items]))
    for name in shop.params.modalities:
        table = shop.vectors(name)
        cosines = cosines_to(table, item)
        items = [] if cosines is None else nearest(cosines, item, count=count, least=-1)
        found.append(
            Neighbours(f"{name} vector", items, [] if cosines is None else [f"{cosines[i]:.3f}" for i in items])
        )
    return found


def levels_shared(codes: NDArray[np.integer[Any]], item: int) -> NDArray[np.int64]:
    """Return with how many of the codes of item each ID of codes (N, L) begins: [1, 2, 3] and [1, 9, 3] share one."""
    same: NDArray[np.bool_] = np.logical_and.accumulate(codes == codes[item], axis=1)
    return np.asarray(same.sum(axis=1), np.int64)


def cosines_to(table: pl.DataFrame, item: int) -> NDArray[np.float64]:
    """Return the cosines (N,) of the vectors of a table of VECTORS to that of item; NaN where one of both has none."""
    present = table["present"].to_numpy()
    own = _vectors(table[item : item + 1])[0]
    parts = [_cosines(_vectors(part), own) for part in table.iter_slices(ROWS)]
    return np.where(present & present[item], np.concatenate(parts), np.nan)


def _vectors(table: pl.DataFrame) -> NDArray[np.float64]:
    return table["vector"].to_numpy().astype(np.float64)


def _cosines(vectors: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own)
    return np.divide(vectors @ own, lengths, where=lengths > 0, out=np.zeros(len(vectors)))


def nearest(nearness: NDArray[np.number[Any]], item: int, *, count: int, least: float) -> list[int]:
    """Return the items but for `item` with the highest of nearness (N,), at least `least`; of equals the first."""
    order = np.argsort(-nearness, kind="stable")
    return [int(each) for each in order if each != item and nearness[each] >= least][:count]
