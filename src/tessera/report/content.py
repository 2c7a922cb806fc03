"""What the report says, as plain values: what the metrics hold, in the order and the words of the page.

Letters: N items, L levels. Names that the stages promise are required; what a file holds beyond them is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from tessera.errors import TableError

#: A JSON object as the stages write it.
Document = Mapping[str, Any]

#: The measures in the order of the tables, and those that are drawn.
MEASURES: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
DRAWN: Final = ("hr@10", "ndcg@10")

#: Of a slice with fewer users the page says that it is small.
FEW_USERS: Final = 100

#: The ranking that every system has to beat, and the name of what the system recommends.
FLOOR: Final = "popularity"
FINAL: Final = "final"

_KINDS: Final = {
    "target_frequency": "interactions of the item to be found, in training",
    "history_length": "items in the user's history",
}

_REASONS: Final = {
    "below_min_rating": "rated too low",
    "repeats": "an item that the user had before",
    "k_core": "fewer than k interactions",
    "k_core_of_rest": "fewer than k after that",
}


class About(NamedTuple):
    """Which run this is."""

    system: str
    dataset: str
    encoder: str
    scale: str
    modalities: Sequence[str]
    seed: int


class Bar(NamedTuple):
    """A value and its interval, and how far along the axis they reach: 0 to 1."""

    value: float
    share: float
    low: float
    high: float
    low_share: float
    high_share: float


class Ranking(NamedTuple):
    """How good a ranking is."""

    name: str
    is_final: bool
    test: Mapping[str, float]
    valid: Mapping[str, float]
    bars: Mapping[str, Bar]  # by measure, on the test split
    times_floor: float | None  # HR@10 over that of popularity; None where that is 0


class Slice(NamedTuple):
    """How good each ranking is for a part of the test users."""

    name: str
    users: int
    is_small: bool
    values: Mapping[str, float]  # HR@10 by ranking
    shares: Mapping[str, float]  # the same along the axis: 0 to 1


class Slices(NamedTuple):
    """The slices of one kind."""

    kind: str
    parts: list[Slice]


class Level(NamedTuple):
    """How the codes of a level are used."""

    codes_used: int
    perplexity: float
    sizes: list[int]  # items that have each code, the most used first


class Codes(NamedTuple):
    """The semantic IDs of a modality."""

    modality: str
    before: float  # collision rate in per cent: (items - distinct IDs) / items
    after: float
    moved: int
    levels: list[Level]


class Dropped(NamedTuple):
    """What a step of the filter took."""

    reason: str
    users: int
    items: int
    interactions: int


class Sample(NamedTuple):
    """Whom the measures are of, and what their intervals mean."""

    users: int
    confidence: float
    resamples: int


class Data(NamedTuple):
    """What is left of the data."""

    users: int
    items: int
    interactions: int
    sparsity: float
    average_length: float
    tie_rate: float


def promised(document: Document, *path: str, file: str) -> Any:
    """Return what document holds at path; raise TableError, naming file and path, where it holds nothing there."""
    found: Any = document
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            raise TableError(f"{file}: expected {'.'.join(path)}, found no {key}")
        found = found[key]
    return found


def rankings_of(evaluate: Document, intervals: Document) -> list[Ranking]:
    """Return the rankings that evaluate measures; `final` is not among them but is the one that `is_final` marks.

    What evaluate measures of part of the targets stands in it as rankings under one name, and is left out here.
    """
    final = promised(evaluate, FINAL, file="evaluate")
    floor = promised(evaluate, FLOOR, "hr@10", file="evaluate")
    names = [name for name, values in evaluate.items() if name != FINAL and DRAWN[0] in values]
    chosen = "ensemble" if "ensemble" in names else next(name for name in names if evaluate[name] == final)
    bounds = {name: promised(intervals, "intervals", name, file="intervals") for name in names}
    longest = {measure: max(bounds[name][measure][1] for name in names) or 1.0 for measure in DRAWN}
    return [
        Ranking(
            name=name,
            is_final=name == chosen,
            test=evaluate[name],
            valid=promised(evaluate, "valid", name, file="evaluate"),
            bars={each: _bar(evaluate[name][each], bounds[name][each], longest[each]) for each in DRAWN},
            times_floor=evaluate[name]["hr@10"] / floor if floor else None,
        )
        for name in names
    ]


def _bar(value: float, interval: Sequence[float], longest: float) -> Bar:
    low, high = interval
    return Bar(value, value / longest, low, high, low / longest, high / longest)


def sample_of(intervals: Document) -> Sample:
    """Return how many test users there are and how their intervals were drawn."""
    return Sample(
        users=promised(intervals, "users", "test", file="intervals"),
        confidence=promised(intervals, "confidence", file="intervals"),
        resamples=promised(intervals, "resamples", file="intervals"),
    )


def slices_of(records: Sequence[Document]) -> list[Slices]:
    """Return the test slices of each kind, in the order of the records (split, ranking, kind, slice, users, hr@10)."""
    test = [record for record in records if record["split"] == "test"]
    kinds = dict.fromkeys(record["kind"] for record in test)
    return [_slices(kind, [record for record in test if record["kind"] == kind]) for kind in kinds]


def _slices(kind: str, records: Sequence[Document]) -> Slices:
    longest = max(record["hr@10"] for record in records) or 1.0
    users = {record["slice"]: record["users"] for record in records}
    parts = []
    for name, count in users.items():
        values = {record["ranking"]: record["hr@10"] for record in records if record["slice"] == name}
        shares = {ranking: value / longest for ranking, value in values.items()}
        parts.append(Slice(name, count, is_small=count < FEW_USERS, values=values, shares=shares))
    return Slices(_KINDS.get(kind, kind.replace("_", " ")), parts)


def codes_of(collisions: Document, ids: pl.DataFrame) -> list[Codes]:
    """Return how the semantic IDs of each modality in ids (modality, codes, moved) came out."""
    return [
        Codes(
            modality=modality,
            before=promised(collisions, modality, "collision_rate_before", file="collisions"),
            after=promised(collisions, modality, "collision_rate_after", file="collisions"),
            moved=int(ids.filter(modality=modality)["moved"].sum()),
            levels=_levels(ids.filter(modality=modality)["codes"]),
        )
        for modality in ids["modality"].unique(maintain_order=True)
    ]


def _levels(codes: pl.Series) -> list[Level]:
    """Return how codes (N lists of up to L) are used at each level."""
    levels = []
    for level in range(int(codes.list.len().to_numpy().max())):
        at_level = codes.list.get(level, null_on_oob=True).drop_nulls()
        sizes = at_level.value_counts(sort=True)["count"].to_list()
        shares = [size / len(at_level) for size in sizes]
        entropy = -sum(share * math.log(share) for share in shares)
        levels.append(Level(len(sizes), math.exp(entropy), sizes))
    return levels


def data_of(filtered: Document) -> Data:
    """Return what the filter left."""
    return Data(**{name: promised(filtered, name, file="filter") for name in Data._fields})


def dropped_of(filtered: Document) -> list[Dropped]:
    """Return what each step of the filter took, in the order of the steps; steps that took nothing are left out."""
    return [
        Dropped(
            _REASONS.get(reason, reason.replace("_", " ")),
            **{name: sizes[name] for name in ("users", "items", "interactions")},
        )
        for reason, sizes in filtered.get("dropped", {}).items()
        if any(sizes.values())
    ]


def lacking_of(filtered: Document) -> dict[str, int]:
    """Return how many of the items that are left lack each modality, or their metadata."""
    return {name: count for name, count in filtered.get("lacking", {}).items() if count}


def mismatches_of(filtered: Document) -> dict[str, tuple[int, int]]:
    """Return the expected and the found number where a known data set came out otherwise."""
    expected = filtered.get("expected", {})
    return {name: (count, filtered[name]) for name, count in expected.items() if filtered.get(name) != count}
