"""How well the levels of semantic IDs agree with the categories that the source gives its items."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Integers = npt.NDArray[np.int64]

#: A category that so large a share of the items have tells nothing of them, and so do categories that fewer than this
#: share have at all.
COMMON: Final = 0.9
COVERED: Final = 0.5


class Labels(NamedTuple):
    """The category of each item that has one."""

    depth: int  # of the categories in the items' paths, from 0
    names: list[str]
    of_items: Integers  # (N,) places in names, -1 where an item has no category of that depth


class LevelAgreement(NamedTuple):
    """How the items that share an ID's first codes share a category, and how they would by chance."""

    level: int
    groups: int  # of items whose codes are the same up to the level
    purity: float
    purity_by_chance: float
    nmi: float
    nmi_by_chance: float


def labels_of(items: pl.DataFrame) -> Labels | None:
    """Return the categories of items (categories: paths, the widest first) at the first depth that tells them apart.

    Paths of ["Home", "Mugs"] and ["Home", "Vases"] differ at depth 1. None where no depth that at least half of the
    items reach does.
    """
    paths = items["categories"]
    deepest = int(paths.list.len().to_numpy().max(initial=0))
    for depth in range(deepest):
        at_depth = paths.list.get(depth, null_on_oob=True)
        counts = at_depth.drop_nulls().value_counts(sort=True)["count"]
        labelled = int(counts.to_numpy().sum())
        if len(counts) > 1 and counts[0] < COMMON * labelled and labelled >= COVERED * items.height:
            names = at_depth.drop_nulls().unique().sort().to_list()
            places = {name: place for place, name in enumerate(names)}
            return Labels(depth, names, np.array([places.get(name, -1) for name in at_depth], np.int64))
    return None


def agreement_of(
    codes: Sequence[Sequence[int]], labels: Integers, *, generator: np.random.Generator
) -> list[LevelAgreement]:
    """Return for each level how the groups of items with the same codes up to there agree with labels (N,).

    codes are N IDs of up to L codes; items whose label is -1 do not count. Chance is the same for labels that are
    shuffled once: with ever smaller groups purity and NMI grow by themselves.
    """
    known = labels >= 0
    kept = [code for code, counts in zip(codes, known, strict=True) if counts]
    own = labels[known]
    shuffled = generator.permutation(own)
    found = []
    for level in range(max(map(len, kept), default=0)):
        groups = groups_at(kept, level)
        found.append(
            LevelAgreement(
                level=level,
                groups=int(groups.max()) + 1,
                purity=purity(groups, own),
                purity_by_chance=purity(groups, shuffled),
                nmi=mutual_information(groups, own),
                nmi_by_chance=mutual_information(groups, shuffled),
            )
        )
    return found


def groups_at(codes: Sequence[Sequence[int]], level: int) -> Integers:
    """Return a number for each of N IDs, the same for those that are the same up to level: [1, 2], [1, 3] are at 0."""
    numbers: dict[tuple[int, ...], int] = {}
    return np.array([numbers.setdefault(tuple(code[: level + 1]), len(numbers)) for code in codes], np.int64)


def purity(groups: Integers, labels: Integers) -> float:
    """Return the share of items that have the commonest label of their group; both (N,).

    Groups 0, 0, 0, 1 with labels 5, 5, 6, 6 have 2 + 1 of 4.
    """
    pairs = Counter(zip(groups.tolist(), labels.tolist(), strict=True))
    largest: dict[int, int] = {}
    for (group, _), count in pairs.items():
        largest[group] = max(largest.get(group, 0), count)
    return sum(largest.values()) / len(groups)


def mutual_information(groups: Integers, labels: Integers) -> float:
    """Return the mutual information of groups and labels (N,), normalised by the mean of their entropies: 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, groups))
