"""The report as one HTML page that needs nothing else, and as a short Markdown text."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tessera.pages import page_environment
from tessera.report.content import (
    FEW_USERS,
    MEASURES,
    About,
    Codes,
    Data,
    Dropped,
    Ranking,
    Sample,
    Slices,
)
from tessera.report.examples import Example

#: Colours of the modalities, in their order: custom properties of the page's style sheet.
HUES: Final = 6

#: Points of a code's outline: more are not seen.
OUTLINE_POINTS: Final = 160


class Content(NamedTuple):
    """Everything that the report says."""

    about: About
    sample: Sample
    rankings: Sequence[Ranking]
    data: Data
    dropped: Sequence[Dropped]
    lacking: Mapping[str, int]
    mismatches: Mapping[str, tuple[int, int]]
    codes: Sequence[Codes]
    slices: Sequence[Slices]
    examples: Sequence[Example]
    pictures: Mapping[str, str]  # data URLs by item key


def html_page(content: Content) -> str:
    """Return the report as HTML; titles and names are escaped, and its policy forbids scripts and requests."""
    return _render("index.html.j2", content)


def markdown_page(content: Content) -> str:
    """Return the tables of the report as Markdown."""
    return _render("report.md.j2", content)


def _render(template: str, content: Content) -> str:
    environment = page_environment("tessera.report")
    environment.filters |= {"count": "{:,}".format, "score": "{:.4f}".format, "percent": _percent, "outline": outline}
    final = next(ranking for ranking in content.rankings if ranking.is_final)
    return environment.get_template(template).render(
        **content._asdict(), final=final, measures=MEASURES, few_users=FEW_USERS, hues=_hues(content.rankings)
    )


def outline(sizes: Sequence[int]) -> str:
    """Return the SVG path of sizes as steps, from (0, 1) to (1, 1) where 1 is the bottom and 0 the height of the first.

    Sizes fall, so the path of [2, 1] is a step down halfway: M0 1V0H0.5V0.5H1V1Z.
    """
    points = min(len(sizes), OUTLINE_POINTS)
    steps = []
    for point in range(points):
        size = sizes[point * len(sizes) // points]
        steps.append(f"V{_short(1 - size / sizes[0])}H{_short((point + 1) / points)}")
    return f"M0 1{''.join(steps)}V1Z"


def _short(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".")


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _hues(rankings: Sequence[Ranking]) -> dict[str, str]:
    """Return the colour of each ranking: popularity and the ensemble have their own, the others take turns."""
    own = {"popularity": "floor", "ensemble": "ensemble"}
    others = [ranking.name for ranking in rankings if ranking.name not in own]
    return own | {name: f"hue-{place % HUES}" for place, name in enumerate(others)}
