"""Items that had the same codes before collisions were resolved: what the quantizer could not tell apart."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import polars as pl

#: Groups of a modality that are shown, the largest first, and items of a group.
SHOWN_GROUPS: Final = 6
SHOWN_ITEMS: Final = 5


class Placed(NamedTuple):
    """An item that collided, and where it went."""

    key: str
    title: str
    codes: Sequence[int]
    moved: bool


class Group(NamedTuple):
    """Items that had the same codes."""

    first_codes: Sequence[int]
    items: int
    shown: list[Placed]


class Collided(NamedTuple):
    """The groups of a modality."""

    modality: str
    groups: int
    items: int
    shown: list[Group]


def collided_of(ids: pl.DataFrame, items: pl.DataFrame) -> list[Collided]:
    """Return for each modality of ids (item, modality, codes, first_codes, moved) its groups that collided.

    items has item, key and title. Groups of one size come in the order of their codes; in a group those that stayed
    come first. A modality without a collision is left out.
    """
    found = []
    for modality in ids["modality"].unique(maintain_order=True):
        own = ids.filter(modality=modality)
        sizes = own.group_by("first_codes").len("size").filter(pl.col("size") > 1)
        if sizes.height:
            largest = sizes.sort(["size", "first_codes"], descending=[True, False]).head(SHOWN_GROUPS)
            shown = [_group(codes, size, own=own, items=items) for codes, size in largest.iter_rows()]
            found.append(Collided(modality, sizes.height, int(sizes["size"].sum()), shown))
    return found


def _group(codes: list[int], size: int, *, own: pl.DataFrame, items: pl.DataFrame) -> Group:
    same = own.filter(pl.col("first_codes") == pl.lit(codes, dtype=own.schema["first_codes"]))
    named = same.join(items.select("item", "key", "title"), on="item").sort("moved", "item").head(SHOWN_ITEMS)
    return Group(codes, size, [Placed(*row) for row in named.select("key", "title", "codes", "moved").iter_rows()])
