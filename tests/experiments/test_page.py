import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tessera.experiments.page import COLUMNS, csv_table, html_page, markdown_page, terminal_table
from tessera.experiments.results import NOT_RUN, Cell, Line, Part, Results, Rival

HOSTILE = "<script>alert('x')</script> \"A\" & B | {{ 7 * 7 }} [bold]"


def results(name="tiger"):
    nothing = Cell(None, None, None)
    lines = [
        Line("macrec", "", 3, {name: Cell(0.1363, 0.0012, 0.13)}, Rival(name, 0.0123, 0.004), 7500.0, 1234567),
        Line(
            name, f"2 of 3 seeds {name}", 2, {name: Cell(0.124, None, None)}, Rival("macrec", -0.0123, 1.0), 92.4, None
        ),
        Line("absent", NOT_RUN, 0, {name: nothing}, None, None, None),
        Line("known", "published figures only", 0, {name: Cell(None, None, 25.24)}, None, None, None),
    ]
    return Results(name, [name], 3, 10_000, [Part(name, lines)], ["0123456789abcdef"])


class Structure(HTMLParser):
    """The text of every cell, and whether each tag that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.tags = [], [], set()

    def handle_starttag(self, tag, _):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f"{text} "


def parsed(page):
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    return structure


def words(row):
    return [" ".join(cell.split()) for cell in row]


def test_the_html_page_shows_every_row_and_needs_nothing_else():
    page = html_page(results())
    heading, *rows = map(words, parsed(page).rows)
    assert heading == ["row", "tiger", "against the best other", "time", "parameters"]
    assert rows == [
        ["macrec", "0.1363 ± 0.0012 0.1300, +4.8%", "+0.0123 p = 0.004, tiger", "2:05 h", "1,234,567"],
        ["tiger 2 of 3 seeds tiger", "0.1240", "-0.0123 p = 1, macrec", "1:32 min", ""],
        ["absent not run", "", "", "", ""],
        ["known published figures only", "25.24", "", "", ""],
    ]
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=|url\(", page)
    assert '<tr class="final"><th>macrec' in page
    assert '<tr class="absent"><th>absent' in page


def test_markdown_has_a_line_a_row_with_as_many_cells_as_headings():
    lines = [line for line in markdown_page(results()).splitlines() if line.startswith("|")]
    assert lines[2] == (
        "| macrec | 0.1363 ± 0.0012 | 0.1300, +4.8% | +0.0123 (p = 0.004), tiger | 2:05 h | 1,234,567 |  |"
    )
    assert lines[4] == "| absent |  |  |  |  |  | not run |"
    assert {line.count("|") for line in lines} == {8}


def test_csv_has_a_line_a_row_and_measure():
    heading, first, _, absent, _ = csv.reader(io.StringIO(csv_table(results())))
    assert tuple(heading) == COLUMNS
    told = dict(zip(COLUMNS, first, strict=True))
    assert float(told.pop("relative_difference")) == pytest.approx(0.1363 / 0.13 - 1)
    assert told == {
        "dataset": "tiger",
        "row": "macrec",
        "status": "",
        "measure": "tiger",
        "seeds": "3",
        "mean": "0.1363",
        "deviation": "0.0012",
        "published": "0.13",
        "best_other": "tiger",
        "gain": "0.0123",
        "p_value": "0.004",
        "seconds": "7500.0",
        "parameters": "1234567",
    }
    assert absent == ["tiger", "absent", "not run", "tiger", "0"] + [""] * 9


def printed(name):
    console = Console(width=300, file=io.StringIO())
    console.print(terminal_table(results(name).parts[0], results(name)))
    return console.file.getvalue()


def test_the_terminal_shows_status_and_what_was_published_below():
    lines = [line.split("  ") for line in printed("tiger").splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["tiger: tiger"]
    assert cells[2:4] == [
        ["macrec", "0.1363 ± 0.0012", "+0.0123 (p = 0.004), tiger", "2:05 h", "1,234,567"],
        ["0.1300, +4.8%"],
    ]
    assert ["absent"] in cells
    assert ["not run"] in cells


def test_hostile_names_stay_text():
    page = html_page(results(HOSTILE))
    structure = parsed(page)
    assert "script" not in structure.tags
    assert HOSTILE in words(structure.rows[0])[1]
    assert "{{ 7 * 7 }}" in page
    markdown = [line for line in markdown_page(results(HOSTILE)).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown} == {8}
    assert "<script" not in "".join(markdown).replace("\\<", "")
    assert HOSTILE in printed(HOSTILE)
    rows = list(csv.DictReader(io.StringIO(csv_table(results(HOSTILE)))))
    assert rows[1]["row"] == HOSTILE
