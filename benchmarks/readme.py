"""Write what the benchmarks found into the README: the table between its marks, and the picture of how times grow."""

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from side_by_side import Growth, rounded, with_told

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
PICTURE = HERE.parent / "docs" / "growth.svg"
BEGIN, END = "<!-- benchmarks: written by benchmarks/readme.py -->", "<!-- end of benchmarks -->"

#: The benchmarks in the order of the pipeline.
ORDER = (
    "filter",
    "cluster",
    "quantize",
    "collisions",
    "corpus",
    "train",
    "train_taught",
    "train_gpu",
    "rank",
    "rank_gpu",
    "serve",
    "pipeline",
)

#: A small plot: its place in the grid and its inner frame, in pixels.
COLUMNS, CELL, HEIGHT = 4, 220, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 30, 36


def main(
    results: Annotated[Path, typer.Option(help="The folder with a JSON file for each benchmark.")] = RESULTS,
    readme: Annotated[Path, typer.Option(help="The page with the marks.")] = README,
    picture: Annotated[Path, typer.Option(help="The picture to write.")] = PICTURE,
) -> None:
    """Bring README and picture up to date with the results."""
    documents = [json.loads((results / f"{name}.json").read_text()) for name in ORDER]
    readme.write_text(with_told(readme.read_text(), table(documents), begin=BEGIN, end=END))
    picture.write_text(small_plots([Growth(**each) for document in documents for each in document["growth"]]))


def table(documents: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of all cases, and what it was measured on."""
    lines = ["| benchmark | work | unit | peer | ours | times | of the limit |", "|---|---|---|---:|---:|---:|---:|"]
    for document in documents:
        for case in document["cases"]:
            rates = f"{rounded(case['peer'])} | {rounded(case['ours'])} | {rounded(case['ratio'])}"
            name = f"[{document['benchmark']}](benchmarks/{document['benchmark']}.py)"
            lines.append(f"| {name} | {case['name']} | {case['unit']} | {rates} | {case['limit_fraction']:.0%} |")
    on_each = dict[str, list[str]]()
    for document in documents:
        on_each.setdefault(named(document["machine"]), []).append(document["benchmark"])
    told = [f"- {machine}: {', '.join(dict.fromkeys(benchmarks))}" for machine, benchmarks in sorted(on_each.items())]
    return "\n".join([*lines, "", "Measured on, so that rates compare within one of them alone:", "", *told])


def named(machine: dict[str, Any]) -> str:
    """Return what a machine is called."""
    gpu = f", {machine['gpu']}" if "gpu" in machine else ""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpu}"


def small_plots(growths: Sequence[Growth]) -> str:
    """Return an SVG with a small plot for each growth: seconds by work, both axes logarithmic, every point marked."""
    rows = math.ceil(len(growths) / COLUMNS)
    parts = [
        f'<g transform="translate({place % COLUMNS * CELL} {place // COLUMNS * HEIGHT})">{small_plot(growth)}</g>'
        for place, growth in enumerate(growths)
    ]
    style = (
        "text{font:10px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#24292f}"
        ".axis{stroke:#8c959f;fill:none}.line{stroke:#0969da;stroke-width:1.5;fill:none}.point{fill:#0969da}"
        ".even{stroke:#8c959f;stroke-dasharray:3 3}"
    )
    size = f'width="{COLUMNS * CELL}" height="{rows * HEIGHT}" viewBox="0 0 {COLUMNS * CELL} {rows * HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="How the time of each step grows">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def small_plot(growth: Growth) -> str:
    """Return one plot; the dashed line is what growth in proportion to the work would be."""
    x = _Axis(growth.work, LEFT, CELL - RIGHT)
    even = [growth.seconds[0] * work / growth.work[0] for work in growth.work]
    y = _Axis([*growth.seconds, even[-1]], HEIGHT - BOTTOM, TOP)
    points = [(x.place(work), y.place(seconds)) for work, seconds in zip(growth.work, growth.seconds, strict=True)]
    lines = "".join(
        f'<line class="line" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>'
        for (a, b), (c, d) in pairwise(points)
    )
    first, last = growth.work[0], growth.work[-1]
    proportional = (
        f'<line class="even" x1="{x.place(first):.1f}" y1="{y.place(even[0]):.1f}" '
        f'x2="{x.place(last):.1f}" y2="{y.place(even[-1]):.1f}"/>'
    )
    marks = "".join(f'<circle class="point" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points)
    bottom = HEIGHT - BOTTOM
    frame = f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{CELL - RIGHT}"/>'
    labels = "".join(
        [
            f'<text class="title" x="{LEFT}" y="16">{escape(growth.name)}</text>',
            f'<text x="{LEFT}" y="{bottom + 13}">{rounded(first)}</text>',
            f'<text x="{CELL - RIGHT}" y="{bottom + 13}" text-anchor="end">'
            f"{rounded(last)} {escape(growth.unit)}</text>",
            f'<text x="{LEFT - 4}" y="{y.place(min(growth.seconds)):.1f}" text-anchor="end">'
            f"{rounded(min(growth.seconds))} s</text>",
            f'<text x="{LEFT - 4}" y="{y.place(max(growth.seconds)) + 8:.1f}" text-anchor="end">'
            f"{rounded(max(growth.seconds))} s</text>",
        ]
    )
    return frame + proportional + lines + marks + labels


class _Axis:
    """A logarithmic axis over values, from the pixel start to the pixel end."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = math.log(min(values)), math.log(max(values))
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        """Return the pixel of value."""
        share = (math.log(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


if __name__ == "__main__":
    typer.run(main)
