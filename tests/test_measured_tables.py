"""The tables of experiments that the README tells of: its figures are those of docs/tables, and its margins hold.

A whole table takes hours, so that it is run by hand and what it measured is kept:

    tessera experiments run demo
    tessera experiments show demo --output docs/tables

A table of the README whose first heading is the name of one of experiments/ tells of docs/tables/NAME.csv. Where it has
a column MARGIN, each seed of a row has at least so much more of the first measure than popularity's mean.
"""

import csv
import math
import re

import pytest

from tessera.experiments.tables import load_table
from tests.pipeline_runs import ROOT

README = (ROOT / "README.md").read_text()
TABLES = sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))
KEPT = sorted((ROOT / "docs" / "tables").glob("*.csv"))
MARGIN = "above popularity by"
POPULARITY = "popularity"

#: The status of a row that the project has no system for.
PUBLISHED = "published figures only"


def told_of(name, text):
    """The rows of the table of text whose first heading is name: each row's cells by their headings."""
    found = re.search(rf"^(\| {re.escape(name)} \|.*)\n\|[-:| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    if not found:
        return {}
    heading, *lines = ([cell.strip() for cell in line[1:-1].split("|")] for line in found.group().splitlines())
    return {cells[0]: dict(zip(heading[1:], cells[1:], strict=True)) for cells in lines[1:]}


def measured_of(lines):
    """What a table's CSV says of each row that was run: its seeds, and its measures as mean and deviation."""
    seeds, measures = {}, {}
    for line in csv.DictReader(lines):
        if line.get("status") == PUBLISHED:
            continue
        seeds[line["row"]] = int(line["seeds"])
        cell = float(line["mean"] or "nan"), float(line["deviation"] or "nan")
        measures.setdefault(line["row"], {})[line["measure"]] = cell
    return seeds, measures


def worst(mean, deviation, *, seeds):
    """No value of so many that have this mean and this sample deviation is below it (Samuelson 1968)."""
    return mean - (seeds - 1) / math.sqrt(seeds) * deviation


def faults(told, lines, *, seeds, first):
    """What is wrong with a table of the README, told, beside the lines of its CSV; first is the first measure."""
    done, measures = measured_of(lines)
    found = [f"{row}: expected {seeds} seeds, found {count}" for row, count in done.items() if count != seeds]
    if told.keys() != done.keys():
        found.append(f"expected rows {sorted(done)}, found {sorted(told)}")
    for row in told.keys() & done.keys():
        known = {name: f"{mean:.4f}" for name, (mean, _) in measures[row].items() if name in told[row]}
        if not known or known != {name: told[row][name] for name in known}:
            found.append(f"{row}: expected {known}, found {told[row]}")
        if MARGIN not in told[row]:
            continue
        margin = told[row][MARGIN]
        gain = worst(*measures[row][first], seeds=seeds) - measures[POPULARITY][first][0]
        if margin and not (0 < float(margin) <= gain):
            found.append(f"{row}: expected a margin above 0 and at most {gain:.4f}, found {margin}")
        if not margin and row != POPULARITY:
            found.append(f"{row}: expected a margin, found none")
    return found


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_the_readme_tells_what_was_measured(file):
    table = load_table(ROOT / "experiments", file.stem)
    lines = file.read_text().splitlines()
    assert faults(told_of(file.stem, README), lines, seeds=table.seeds, first=next(iter(table.measures))) == []
    assert measured_of(lines)[0].keys() <= table.rows.keys()


def test_the_readme_tells_of_no_table_that_is_not_kept():
    assert {name for name in TABLES if told_of(name, README)} == {file.stem for file in KEPT}


@pytest.mark.skipif("demo" not in {file.stem for file in KEPT}, reason="the demo table has not been run yet")
def test_every_system_of_the_demo_shop_has_a_margin():
    assert all(MARGIN in cells for cells in told_of("demo", README).values())


EXAMPLE = """
| demo | HR@10 | above popularity by |
|---|---:|---|
| one | 0.5000 | 0.25 |
| popularity | 0.2000 | |
"""
MEASURED = ["row,measure,seeds,mean,deviation", "one,HR@10,3,0.50001,0.02", "popularity,HR@10,3,0.2,0.0"]


def test_a_table_as_it_should_be():
    assert told_of("demo", EXAMPLE)["popularity"] == {"HR@10": "0.2000", MARGIN: ""}
    assert faults(told_of("demo", EXAMPLE), MEASURED, seeds=3, first="HR@10") == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("| 0.5000 |", "| 0.5001 |", "one: expected {'HR@10': '0.5000'}, found"),
        ("| 0.25 |", "| 0.28 |", "one: expected a margin above 0 and at most 0.2769, found 0.28"),
        ("| 0.25 |", "| 0.0 |", "one: expected a margin above 0 and at most 0.2769, found 0.0"),
        ("| 0.25 |", "| |", "one: expected a margin, found none"),
        ("| one |", "| two |", "expected rows ['one', 'popularity'], found ['popularity', 'two']"),
        ("one,HR@10,3", "one,HR@10,2", "one: expected 3 seeds, found 2"),
    ],
)
def test_each_fault_is_found(before, after, fault):
    told = told_of("demo", EXAMPLE.replace(before, after))
    lines = [line.replace(before, after) for line in MEASURED]
    assert any(found.startswith(fault) for found in faults(told, lines, seeds=3, first="HR@10"))


def test_a_row_of_published_figures_needs_no_place_in_the_readme():
    lines = [f"{line},{'status' if line == MEASURED[0] else ''}" for line in MEASURED]
    assert faults(told_of("demo", EXAMPLE), [*lines, f"other,HR@10,0,,,{PUBLISHED}"], seeds=3, first="HR@10") == []
    assert faults(told_of("demo", EXAMPLE), [*lines, "other,HR@10,0,,,not run"], seeds=3, first="HR@10")


def test_the_worst_of_three_seeds_is_not_below_the_bound():
    """0, 0, 1 has the mean 1/3 and the deviation sqrt(1/3); of -1, 0, 0 the worst is the bound itself."""
    assert worst(1 / 3, math.sqrt(1 / 3), seeds=3) == pytest.approx(-1 / 3)
    assert worst(-1 / 3, math.sqrt(1 / 3), seeds=3) == pytest.approx(-1)
