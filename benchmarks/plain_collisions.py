"""The rule of `tessera.codes.collisions` written plainly: the twin in its tests, the peer in its benchmark.

Groups are a dictionary, taken IDs a set of tuples, preferences sorted lists of distances that NumPy computes an item at
a time.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tessera.codes.collisions import Paths

Code = tuple[int, ...]


class Resolved(NamedTuple):
    """What the rule gives."""

    codes: list[Code]
    homeless: list[int]  # items for which it finds no ID


def resolved_plainly(paths: Paths) -> Resolved:
    """Return the codes that the rule gives to the items of paths."""
    codes: list[Code] = list(map(tuple, paths.codes.tolist()))
    taken, homeless, groups = set(codes), [], defaultdict(list)
    for item, code in enumerate(codes):
        groups[code].append(item)
    for code in sorted(code for code, items in groups.items() if len(items) > 1):
        nearness = {item: distances(paths, item, -1)[code[-1]] for item in groups[code]}
        for item in sorted(groups[code], key=lambda item: (nearness[item], item))[1:]:
            place = next((place for place in choices(paths, item, code) if place not in taken), None)
            if place is None:
                homeless.append(item)
            else:
                taken.add(place)
                codes[item] = place
    return Resolved(codes, homeless)


def choices(paths: Paths, item: int, code: Code) -> Iterator[Code]:
    """Yield the IDs open by the rule to an item of this code, best first."""
    last = nearest_first(distances(paths, item, -1))
    if len(code) == 1:
        yield from ((choice,) for choice in last)
        return
    yield from ((*code[:-1], choice) for choice in last)
    for second_last in nearest_first(distances(paths, item, -2)):
        if second_last != code[-2]:
            yield from ((*code[:-2], second_last, choice) for choice in last)


def nearest_first(found: list[float]) -> list[int]:
    """Return the codes by distance (M,), of equally near ones the first one first."""
    return sorted(range(len(found)), key=found.__getitem__)


def distances(paths: Paths, item: int, level: int) -> list[float]:
    """Return the squared distances (M,) of an item's residual at level -1 or -2; infinite where a code has no place."""
    residual = paths.residuals[item]
    if level == -1 and len(paths.codebooks) > 1:
        residual = residual - paths.codebooks[-2][paths.codes[item, -2]]
    gaps = np.square(residual.astype(np.float64) - paths.codebooks[level]).sum(axis=1)
    return np.where(np.isnan(gaps), np.inf, gaps).tolist()
