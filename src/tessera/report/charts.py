"""The charts of the report, as Vega-Lite specifications that Altair makes and checks.

Colours are custom properties of the page's style sheet, so that a chart follows it into the dark and onto paper. Each
chart takes the width that the page gives it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import altair as alt

from tessera.report.categories import LevelAgreement
from tessera.report.code_use import Level, curve_of
from tessera.report.content import Document, Ranking, Slices
from tessera.report.curves import Curves
from tessera.report.origin import Run

#: A chart as Vega-Lite reads it.
Chart = dict[str, Any]

#: Pixels.
HEIGHT, LOW_HEIGHT, ROW_HEIGHT, BAR = 220, 84, 30, 16

#: Room for the value beside the longest bar, as a share of it.
ROOM: Final = 0.4

#: Names in a row of a legend: as many as what its chart stands in is wide for, beside the axis. That is told anew
#: whenever the plot's own width changes, which the legend cannot go by: it is known only when the legend has its place.
LEGEND_COLUMNS: Final = "width ? max(1, floor((containerSize()[0] - 70) / 90)) : 1"

#: What all charts look like.
CONFIG: Final[Chart] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "titlePadding": 8,
        "domain": False,
        "ticks": False,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "symbolStrokeWidth": 3,
        "columnPadding": 14,
        "rowPadding": 4,
        "offset": 8,
    },
    "line": {"strokeWidth": 2},
    "bar": {"cornerRadiusEnd": 2},
    "text": {"fill": "var(--ink)", "fontSize": 12},
}


def hue(name: str) -> str:
    """Return a colour of the style sheet as a chart spells it."""
    return f"var(--{name})"


def headline(rankings: Sequence[Ranking], measure: str, *, hues: Mapping[str, str]) -> Chart:
    """Return a bar a ranking, with the interval of its measure and its value."""
    rows = [{"ranking": each.name, **each.bars[measure]._asdict()} for each in rankings]
    told = _tooltip(ranking="ranking", value=(measure.upper(), ".4f"), low=("from", ".4f"), high=("to", ".4f"))
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("ranking:N", sort=None, title=None, axis=alt.Axis(labelColor=hue("ink"), labelFontSize=13)),
        tooltip=told,
    )
    furthest = max(row["high"] for row in rows) or 1.0
    scale = alt.Scale(domain=[0, furthest * (1 + ROOM)], nice=False)
    bars = base.mark_bar(height=BAR).encode(
        x=alt.X("value:Q", title=None, axis=alt.Axis(tickCount=4, format="~g"), scale=scale),
        color=_colours("ranking", [each.name for each in rankings], hues, legend=None),
    )
    interval = base.mark_rule(stroke=hue("ink"), strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    value = base.mark_text(align="left", dx=8, fontWeight="bold").encode(
        x="high:Q", text=alt.Text("value:Q", format=".4f")
    )
    return _spec(alt.layer(bars, interval, value), height=ROW_HEIGHT * len(rows))


def by_k(records: Sequence[Document], measure: str, *, hues: Mapping[str, str]) -> Chart:
    """Return a line a ranking: a measure by K."""
    rows = [{"ranking": each["ranking"], "k": each["k"], "value": each[measure]} for each in records]
    names = list(dict.fromkeys(row["ranking"] for row in rows))
    told = _tooltip(ranking="ranking", k="K", value=(measure.upper(), ".4f"))
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X("k:Q", title="K", axis=alt.Axis(grid=False, tickMinStep=1)),
            y=alt.Y("value:Q", title=f"{measure.upper()}@K", axis=alt.Axis(tickCount=5)),
            color=_colours("ranking", names, hues, legend="stroke"),
            tooltip=told,
        )
    )
    return _spec(chart)


def slices(kind: Slices, rankings: Sequence[str], *, hues: Mapping[str, str]) -> Chart:
    """Return a group of bars a slice, paler where it has few users."""
    rows = [
        {"slice": part.name, "ranking": name, "value": value, "users": part.users, "few": part.is_small}
        for part in kind.parts
        for name, value in part.values.items()
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("slice:N", sort=None, title=None, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("ranking:N", sort=list(rankings)),
            y=alt.Y("value:Q", title="HR@10", axis=alt.Axis(tickCount=5)),
            color=_colours("ranking", rankings, hues, legend="circle"),
            opacity=alt.when("datum.few").then(alt.value(0.4)).otherwise(alt.value(1)),
            tooltip=_tooltip(slice="slice", users=("users", ","), ranking="ranking", value=("HR@10", ".4f")),
        )
    )
    return _spec(chart)


def curves(each: Curves) -> Chart:
    """Return the lines of a training."""
    rows = [{"name": point.name, "epoch": point.epoch, "value": point.value} for point in each.points]
    names = list(dict.fromkeys(row["name"] for row in rows))
    hues = {str(name): f"hue-{place}" for place, name in enumerate(names)}
    is_one_epoch = len({point.epoch for point in each.points}) == 1  # of which a line shows nothing
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=is_one_epoch)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickMinStep=1)),
            y=alt.Y("value:Q", title=each.label, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            color=_colours("name", list(hues), hues, legend="stroke"),
            tooltip=_tooltip(name="curve", epoch="epoch", value=(each.label, ".4g")),
        )
    )
    return _spec(chart)


def code_use(level: Level, *, colour: str) -> Chart:
    """Return the items of each code of a level, the most used first: a flat curve is a level that is used evenly."""
    rows = [{"place": place, "items": items} for place, items in curve_of(level)]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar(color=hue(colour), cornerRadiusEnd=0)
        .encode(
            x=alt.X("place:O", title=None, axis=None, scale=alt.Scale(paddingInner=0.1, paddingOuter=0)),
            y=alt.Y("items:Q", title=None, axis=alt.Axis(tickCount=2, tickMinStep=1)),
            tooltip=_tooltip(place="code, by use", items=("items", ",")),
        )
    )
    return _spec(chart, height=LOW_HEIGHT)


def category_levels(
    of_modality: Mapping[str, Sequence[LevelAgreement]], measure: str, *, hues: Mapping[str, str]
) -> Chart:
    """Return a line a modality, purity or nmi by level, and a dashed one by chance."""
    rows = [
        {"modality": name, "level": each.level, "value": getattr(each, field), "labels": labels, "groups": each.groups}
        for name, levels in of_modality.items()
        for field, labels in ((measure, "as they are"), (f"{measure}_by_chance", "shuffled"))
        for each in levels
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=30))
        .encode(
            x=alt.X("level:O", title="codes up to level", axis=alt.Axis(grid=False, labelAngle=0)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            color=_colours("modality", list(of_modality), hues, legend="stroke"),
            strokeDash=alt.StrokeDash(
                "labels:N", legend=None, scale=alt.Scale(domain=["as they are", "shuffled"], range=[[1, 0], [4, 4]])
            ),
            tooltip=_tooltip(
                modality="modality", level="level", groups=("groups", ","), labels="labels", value=("value", ".3f")
            ),
        )
    )
    return _spec(chart)


def times(runs: Sequence[Run]) -> Chart:
    """Return a bar a stage: the seconds of its run."""
    rows = [{"stage": run.stage, "seconds": run.seconds} for run in runs]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("stage:N", sort=None, title=None, axis=alt.Axis(labelColor=hue("ink"), labelLimit=200)),
        tooltip=_tooltip(stage="stage", seconds=("seconds", ",.1f")),
    )
    bars = base.mark_bar(color=hue("ensemble"), height=BAR - 4).encode(
        x=alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=4))
    )
    return _spec(bars, height=(ROW_HEIGHT - 8) * len(rows))


def _colours(
    field: str, names: Sequence[str], hues: Mapping[str, str], *, legend: Literal["circle", "stroke"] | None
) -> alt.Color:
    """Return the colours of the names that a field holds, with a legend of such symbols if there are several."""
    columns = alt.ExprRef(LEGEND_COLUMNS)
    shown = alt.Legend(symbolType=legend, columns=columns) if legend and len(names) > 1 else None
    scale = alt.Scale(domain=list(names), range=[hue(hues[name]) for name in names])
    return alt.Color(f"{field}:N", scale=scale, legend=shown)


def _tooltip(**fields: str | tuple[str, str]) -> list[alt.Tooltip]:
    """Return what is told of a mark: the field, its title and, for a number, its format."""
    names = {field: told for field, told in fields.items() if isinstance(told, str)}
    numbers = {field: told for field, told in fields.items() if not isinstance(told, str)}
    told_of = {field: alt.Tooltip(f"{field}:N", title=title) for field, title in names.items()}
    told_of |= {
        field: alt.Tooltip(f"{field}:Q", title=title, format=style) for field, (title, style) in numbers.items()
    }
    return [told_of[field] for field in fields]


def _spec(chart: alt.Chart | alt.LayerChart | alt.FacetChart, *, height: int = HEIGHT) -> Chart:
    """Return a chart as wide as what it stands in."""
    return chart.properties(width="container", height=height).to_dict()
