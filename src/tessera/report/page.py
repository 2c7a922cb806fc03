"""The report as one HTML page that needs nothing else, and as a short Markdown text."""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

from jinja2 import Environment
from markupsafe import Markup

from tessera.errors import DataError
from tessera.pages import page_environment
from tessera.report import charts
from tessera.report.agreement import CUT, Agreement
from tessera.report.content import DRAWN, FEW_USERS, MEASURES, About, Data, Document, Ranking, Sample, Slices
from tessera.report.curves import Curves
from tessera.report.examples import Example
from tessera.report.losses import Kept, counted
from tessera.report.neighbours import Neighbours
from tessera.report.origin import Origin
from tessera.report.pictures import Pictures
from tessera.report.semantic_ids import SemanticIds
from tessera.report.tree import shown_of

#: Colours of the modalities, in their order: custom properties of the page's style sheet.
HUES: Final = 9

#: Bytes of a megabyte, and seconds of a minute.
MEGABYTE, MINUTE = 2**20, 60


class Content(NamedTuple):
    """Everything that the report says."""

    about: About
    sample: Sample
    rankings: Sequence[Ranking]
    cuts: Sequence[Document]  # ranking, k, hr and ndcg
    slices: Sequence[Slices]
    examples: Sequence[Example]
    agreements: Sequence[Agreement]
    ids: SemanticIds
    neighbours: Neighbours | None
    curves: Sequence[Curves]
    data: Data
    kept: Sequence[Kept]
    lacking: Mapping[str, int]
    mismatches: Mapping[str, tuple[int, int]]
    origin: Origin
    pictures: Pictures


def shown_keys(content: Content) -> list[str]:
    """Return the keys of the items that the page shows, each once, the most telling first."""
    shown: list[Any] = [
        *(entry for example in content.examples for entry in example.entries),
        *(entry for each in content.agreements for cell in each.cells for entry in cell.shown),
        *(placed for each in content.ids.collided for group in each.shown for placed in group.shown),
    ]
    for query in content.neighbours.queries if content.neighbours else []:
        shown += [query, *(near for nearest in query.nearest.values() for near in nearest)]
    return list(dict.fromkeys([*(each.key for each in shown), *shown_of(content.ids.trees.values())]))


def html_page(content: Content, *, library: str) -> str:
    """Return the report as HTML; titles and names are escaped, and its policy forbids every request and foreign script.

    library is the code that draws the charts.
    """
    own = files("tessera.report").joinpath("templates", "report.js").read_text(encoding="utf-8")
    scripts = [_script(library), _script(own)]
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {' '.join(_hash(script) for script in scripts)}"
    )
    drawn = {"config": charts.CONFIG, "charts": charts_of(content), "pictures": content.pictures.urls}
    return _render("index.html.j2", content, scripts=[Markup(each) for each in scripts], policy=policy, drawn=drawn)  # noqa: S704


def markdown_page(content: Content) -> str:
    """Return the tables of the report as Markdown."""
    return _render("report.md.j2", content)


@functools.cache
def chart_library() -> str:
    """Return the JavaScript of Vega, Vega-Lite and Vega-Embed, as vl-convert has it, for a page without network."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def charts_of(content: Content) -> dict[str, charts.Chart]:
    """Return the charts of the page by name, as its templates ask for them."""
    hues = hues_of(content)
    found = {f"headline-{measure}": charts.headline(content.rankings, measure, hues=hues) for measure in DRAWN}
    if content.cuts:
        found |= {f"by-k-{measure}": charts.by_k(content.cuts, measure, hues=hues) for measure in ("hr", "ndcg")}
    names = [ranking.name for ranking in content.rankings]
    found |= {f"slices-{n}": charts.slices(kind, names, hues=hues) for n, kind in enumerate(content.slices)}
    found |= {
        f"codes-{each.modality}-{place}": charts.code_use(level, colour=hues[each.modality])
        for each in content.ids.codes
        for place, level in enumerate(each.levels)
    }
    if content.ids.categories:
        found |= {
            f"categories-{measure}": charts.category_levels(content.ids.categories, measure, hues=hues)
            for measure in ("purity", "nmi")
        }
    found |= {each.name: charts.curves(each) for each in content.curves}
    if content.origin.runs:
        found["times"] = charts.times(content.origin.runs)
    return found


def hues_of(content: Content) -> dict[str, str]:
    """Return the colour of each ranking and modality: popularity and the ensemble have their own, others take turns."""
    own = {"popularity": "floor", "ensemble": "ensemble"}
    names = [*(ranking.name for ranking in content.rankings), *(each.modality for each in content.ids.codes)]
    others = [name for name in dict.fromkeys(names) if name not in own]
    return own | {name: f"hue-{place % HUES}" for place, name in enumerate(others)}


def _script(code: str) -> str:
    """Return code as it stands in the page; its hash has to be that of what a browser reads there.

    Raises DataError where it would end the element that it stands in.
    """
    if "</script" in code.lower() or "<!--" in code:
        raise DataError("script of the report: expected code without the end of a script or a comment, found one")
    return code.replace("\r\n", "\n").replace("\r", "\n")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


@functools.cache
def _environment() -> Environment:
    environment = page_environment("tessera.report")
    environment.filters |= {
        "count": "{:,}".format,
        "score": "{:.4f}".format,
        "percent": percent,
        "exact_percent": exact_percent,
        "megabytes": megabytes,
        "duration": duration,
        "counted": counted,
        "spelled_codes": lambda codes: "-".join(map(str, codes)),
    }
    return environment


def _render(template: str, content: Content, **more: Any) -> str:
    final = next(ranking for ranking in content.rankings if ranking.is_final)
    page = _environment().get_template(template)
    return page.render(
        **content._asdict(),
        **more,
        final=final,
        measures=MEASURES,
        few_users=FEW_USERS,
        cut=CUT,
        hues=hues_of(content),
    )


def percent(share: float, digits: int = 1) -> str:
    """Return a share in per cent: 12.3%."""
    return f"{share:.{digits}%}"


def exact_percent(share: float) -> str:
    """Return a share in per cent with the digits that it has: 95%, 99.9%."""
    return f"{100 * share:g}%"


def megabytes(size: int) -> str:
    """Return bytes as they are read: 0.4 MB, 12 MB, 1.2 GB."""
    if size < MEGABYTE * 10:
        return f"{size / MEGABYTE:.1f} MB"
    return f"{size / MEGABYTE:,.0f} MB" if size < MEGABYTE * 1024 else f"{size / MEGABYTE / 1024:.1f} GB"


def duration(seconds: float) -> str:
    """Return seconds as they are read: 4.2 s, 1:32 min, 2:05 h."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hour = MINUTE * MINUTE
    unit, large, small = (
        ("h", whole // hour, whole % hour // MINUTE) if whole >= hour else ("min", *divmod(whole, MINUTE))
    )
    return f"{large}:{small:02} {unit}"
