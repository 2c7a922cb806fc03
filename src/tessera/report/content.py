"""What the report says, as plain values: what the metrics hold, in the order and the words of the page.

Names that the stages promise are required; what a file holds beyond them is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tessera.errors import TableError
from tessera.measures import FINAL, rankings_in

#: A JSON object as the stages write it.
Document = Mapping[str, Any]

#: The measures in the order of the tables, and those that are drawn.
MEASURES: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
DRAWN: Final = ("hr@10", "ndcg@10")

#: Of a slice with fewer users the page says that it is small.
FEW_USERS: Final = 100

#: The ranking that every system has to beat, and that of all others together.
FLOOR: Final = "popularity"
ENSEMBLE: Final = "ensemble"

_KINDS: Final = {
    "target_frequency": "interactions of the item to be found, in training",
    "history_length": "items in the user's history",
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
    """A value and its interval."""

    value: float
    low: float
    high: float


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


class Slices(NamedTuple):
    """The slices of one kind."""

    kind: str
    parts: list[Slice]


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
    names = [name for name in rankings_in(evaluate) if name != FINAL]
    chosen = ENSEMBLE if ENSEMBLE in names else next(name for name in names if evaluate[name] == final)
    bounds = {name: promised(intervals, "intervals", name, file="intervals") for name in names}
    return [
        Ranking(
            name=name,
            is_final=name == chosen,
            test=evaluate[name],
            valid=promised(evaluate, "valid", name, file="evaluate"),
            bars={each: Bar(evaluate[name][each], *bounds[name][each]) for each in DRAWN},
            times_floor=evaluate[name]["hr@10"] / floor if floor else None,
        )
        for name in names
    ]


def compared_of(rankings: Sequence[Ranking]) -> tuple[list[str], list[str]]:
    """Return the rankings that modalities or other members made, and those to show a user: these and what is final."""
    members = [ranking.name for ranking in rankings if ranking.name not in (FLOOR, ENSEMBLE)]
    final = next(ranking.name for ranking in rankings if ranking.is_final)
    return members, [*members, *([final] if final not in members else [])]


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
    users = {record["slice"]: record["users"] for record in records}
    parts = []
    for name, count in users.items():
        values = {record["ranking"]: record["hr@10"] for record in records if record["slice"] == name}
        parts.append(Slice(name, count, is_small=count < FEW_USERS, values=values))
    return Slices(_KINDS.get(kind, kind.replace("_", " ")), parts)


def data_of(filtered: Document) -> Data:
    """Return what the filter left."""
    return Data(**{name: promised(filtered, name, file="filter") for name in Data._fields})


def lacking_of(filtered: Document) -> dict[str, int]:
    """Return how many of the items that are left lack each modality, or their metadata."""
    return {name: count for name, count in filtered.get("lacking", {}).items() if count}


def mismatches_of(filtered: Document) -> dict[str, tuple[int, int]]:
    """Return the expected and the found number where a known data set came out otherwise."""
    expected = filtered.get("expected", {})
    return {name: (count, filtered[name]) for name, count in expected.items() if filtered.get(name) != count}
