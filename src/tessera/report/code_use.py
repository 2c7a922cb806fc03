"""How the codes of each level are used: how evenly, and which are dead."""

from typing import Final, NamedTuple

import polars as pl

from tessera.report.content import Document, promised
from tessera.usage import Level as Usage
from tessera.usage import level_of

#: Points of a level's curve: more are not seen.
CURVE_POINTS: Final = 256


class Level(NamedTuple):
    """How the codes of a level are used."""

    codes_used: int
    dead: int | None  # codes of the codebook that no item has; None where the level has no codebook
    perplexity: float
    sizes: list[int]  # items that have each code, the most used first, without the dead
    before: Usage | None  # how they were used before collisions were resolved; None where the level came with that


class Codes(NamedTuple):
    """The semantic IDs of a modality."""

    modality: str
    before: float  # collision rate in per cent: (items - distinct IDs) / items
    after: float
    moved: int
    levels: list[Level]


def codes_of(
    collisions: Document,
    ids: pl.DataFrame,
    quantised: pl.DataFrame | None = None,
    *,
    codebook_size: int,
    levels: int,
) -> list[Codes]:
    """Return how the semantic IDs of each modality in ids (modality, codes, moved) came out.

    quantised are those of the items that have the modality, where some have not: who moved is told of them. Levels
    beyond those of the quantizer, such as one that only tells colliding items apart, have no codebook.
    """
    return [
        Codes(
            modality=modality,
            before=promised(collisions, modality, "collision_rate_before", file="collisions"),
            after=promised(collisions, modality, "collision_rate_after", file="collisions"),
            moved=int((ids if quantised is None else quantised).filter(modality=modality)["moved"].sum()),
            levels=_levels(
                ids.filter(modality=modality)["codes"],
                collisions[modality].get("levels_before", {}),
                codebook_size=codebook_size,
                levels=levels,
            ),
        )
        for modality in ids["modality"].unique(maintain_order=True)
    ]


def _levels(codes: pl.Series, before: Document, *, codebook_size: int, levels: int) -> list[Level]:
    """Return how codes (N lists of up to L) are used at each level, and were, by its number, before."""
    found = []
    for level in range(int(codes.list.len().to_numpy().max())):
        at_level = codes.list.get(level, null_on_oob=True).drop_nulls()
        use = level_of(at_level.to_numpy())
        has_codebook = level < levels and int(at_level.to_numpy().max()) < codebook_size
        dead = codebook_size - use.codes_used if has_codebook else None
        sizes = at_level.value_counts(sort=True)["count"].to_list()
        was = before.get(str(level))
        found.append(Level(use.codes_used, dead, use.perplexity, sizes, Usage(**was) if was else None))
    return found


def curve_of(level: Level) -> list[tuple[int, int]]:
    """Return places from 1 and the items of the code at each, the most used first and the dead last.

    Of more than CURVE_POINTS codes those at even distances are taken. Sizes 9, 4, one dead: (1, 9), (2, 4), (3, 0).
    """
    sizes = level.sizes + [0] * (level.dead or 0)
    points = min(len(sizes), CURVE_POINTS)
    places = [point * len(sizes) // points for point in range(points)]
    return [(place + 1, sizes[place]) for place in places]
