"""What was dropped on the way from the source to the corpus, stage by stage."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_REASONS: Final = {
    "below_min_rating": "rated too low",
    "repeats": "an item that the user had before",
    "k_core": "fewer than k interactions",
    "k_core_of_rest": "fewer than k after that",
    "missing": "the source names none",
    "no_record": "not a record",
    "undecodable": "cannot be decoded",
    "items_lent_a_path": "without a vector of their own: they take the codes of an item like them",
}


class Loss(NamedTuple):
    """What a stage dropped or could not use, and why."""

    stage: str
    reason: str
    took: Mapping[str, int]  # how many of what, none of them 0


class Kept(NamedTuple):
    """What a stage left."""

    stage: str
    left: Mapping[str, int]
    losses: list[Loss]


def kept_of(
    *, download: Mapping[str, Any], fetch: Mapping[str, Any], filtered: Mapping[str, Any], collisions: Mapping[str, Any]
) -> list[Kept]:
    """Return what each stage left and dropped, out of its metrics; a count that these do not hold is left out."""
    reviews, items = download.get("reviews", {}), download.get("items", {})
    return [
        Kept(
            "download_reviews",
            _some({"reviews": reviews.get("kept", 0), "items": items.get("kept", 0)}),
            [
                *_of("download_reviews", reviews.get("malformed", {}), unit="lines of reviews"),
                *_of("download_reviews", items.get("malformed", {}), unit="lines of items"),
                *_of("download_reviews", {k: items.get(k, 0) for k in ("repeated", "not_reviewed")}, unit="items"),
            ],
        ),
        Kept(
            "fetch_images",
            _some({"pictures": fetch.get("status", {}).get("ok", 0)}),
            _of("fetch_images", {k: n for k, n in fetch.get("status", {}).items() if k != "ok"}, unit="pictures"),
        ),
        Kept(
            "filter_reviews",
            _some({unit: filtered.get(unit, 0) for unit in ("users", "items", "interactions")}),
            [
                Loss("filter_reviews", spelled(reason), took)
                for reason, sizes in filtered.get("dropped", {}).items()
                if (took := _some({unit: sizes[unit] for unit in ("users", "items", "interactions")}))
            ],
        ),
        Kept(
            "resolve_collisions",
            {},
            [
                Loss("resolve_collisions", f"{modality}: {spelled('items_lent_a_path')}", {"items": lent})
                for modality, summary in collisions.items()
                if (lent := summary.get("items_lent_a_path", 0))
            ],
        ),
    ]


def spelled(reason: str) -> str:
    """Return a reason of a metrics file in words."""
    return _REASONS.get(reason, reason.replace("_", " "))


def counted(count: int, unit: str) -> str:
    """Return a count with its unit: 1 line of reviews, 2,000 users."""
    noun, *rest = unit.split(" ")
    return " ".join([f"{count:,}", noun.removesuffix("s") if count == 1 else noun, *rest])


def _of(stage: str, counts: Mapping[str, int], *, unit: str) -> list[Loss]:
    return [Loss(stage, spelled(reason), {unit: count}) for reason, count in counts.items() if count]


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
