"""The results of a table at the terminal, as Markdown, as CSV, and as one HTML page that needs nothing else.

The page takes its style sheet from the report, so that both look alike.
"""

import csv
import io
from typing import Final

from rich.markup import escape
from rich.table import Table

from tessera.experiments.results import Cell, Line, Part, Results
from tessera.pages import page_environment

#: Above this a p-value is chance enough.
SIGNIFICANT: Final = 0.05

#: Digits of a commit that are shown.
SHORT: Final = 10

COLUMNS: Final = (
    "dataset",
    "row",
    "status",
    "measure",
    "seeds",
    "mean",
    "deviation",
    "published",
    "relative_difference",
    "best_other",
    "gain",
    "p_value",
    "seconds",
    "parameters",
)


def html_page(results: Results) -> str:
    """Return the results as HTML; titles and names are escaped, and its policy forbids scripts and requests."""
    return _render("table.html.j2", results)


def markdown_page(results: Results) -> str:
    """Return the results as Markdown, a table a data set."""
    return _render("table.md.j2", results)


def csv_table(results: Results) -> str:
    """Return the results as CSV with COLUMNS: a line a data set, row and measure; what is not known is empty.

    best_other, gain and p_value are of the first measure, and empty in the lines of the others.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in results.parts:
        for line in part.lines:
            for measure, cell in line.cells.items():
                rival = line.rival if measure == results.measures[0] else None
                writer.writerow(
                    (part.dataset, line.row, line.status, measure, line.seeds, *cell, cell.difference)
                    + (rival or (None, None, None))
                    + (line.seconds, line.parameters)
                )
    return text.getvalue()


def terminal_table(part: Part, results: Results) -> Table:
    """Return the rows on a data set as a table of rich; what was published stands under what was measured."""
    title = f"{escape(results.title)}: {escape(part.dataset)}"
    table = Table("row", title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    for heading in (*results.measures, "against the best other", "time", "parameters"):
        table.add_column(escape(heading), justify="right")
    for line in part.lines:
        cells = [_two_lines(_measured(cell), _published(cell)) for cell in line.cells.values()]
        table.add_row(
            _two_lines(line.row, line.status),
            *cells,
            escape(_rival(line)),
            _duration(line.seconds),
            _count(line.parameters),
        )
    return table


def _two_lines(first: str, second: str) -> str:
    return f"{escape(first)}\n[dim]{escape(second)}[/]" if second else escape(first)


def _render(template: str, results: Results) -> str:
    environment = page_environment("tessera.experiments", "tessera.report")
    for shown in (_measured, _published, _rival, _duration, _count):
        environment.filters[shown.__name__.removeprefix("_")] = shown
    return environment.get_template(template).render(**results._asdict(), notes=notes(results), significant=SIGNIFICANT)


def notes(results: Results) -> str:
    """Return what a reader has to know of the numbers."""
    commits = ", ".join(commit[:SHORT] for commit in results.baselines) or "none"
    return (
        f"Mean and standard deviation over seeds; beside or below it what was published, and how far the mean is from "
        f"that. Against the best other row: the difference in {results.measures[0]}, and the p-value of a paired "
        f"permutation test over users ({results.flips:,} sign flips of gains averaged over seeds) after Holm's "
        f"correction for all pairs of rows on the data set. It is of these trainings: another seed may move a row by "
        f"more, as the deviations show, and of a row with one seed it is not known by how much. Time is that of a run; "
        f"what came from DVC's cache took none. Parameters are those of the T5. Commits that were run: {commits}."
    )


def _measured(cell: Cell) -> str:
    """Return mean and deviation as they are shown: 0.1363 ± 0.0012."""
    if cell.mean is None:
        return ""
    return _score(cell.mean) if cell.deviation is None else f"{_score(cell.mean)} ± {_score(cell.deviation)}"


def _published(cell: Cell) -> str:
    """Return what was published, and how far the mean is from it: 0.1363, +1.2%."""
    if cell.published is None:
        return ""
    difference = f", {cell.difference:+.1%}" if cell.difference is not None else ""
    return f"{_score(cell.published)}{difference}"


def _rival(line: Line) -> str:
    """Return how a row stands against the best other: +0.0012 (p = 0.031), TIGER."""
    if line.rival is None:
        return ""
    return f"{line.rival.gain:+.4f} (p = {line.rival.p_value:.2g}), {line.rival.row}"


def _score(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _duration(seconds: float | None) -> str:
    """Return seconds as minutes and seconds, or hours and minutes: 1:32 min, 2:05 h."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hour = 3600
    unit, large, small = ("h", whole // hour, whole % hour // 60) if whole >= hour else ("min", *divmod(whole, 60))
    return f"{large}:{small:02} {unit}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
