"""A table of experiments: named rows of overrides, with the published figures that stand beside them.

A table is a file experiments/NAME.yaml:

    title: one line that says what is compared
    datasets: [instruments, arts]     # each row on each; names of conf/dataset
    seeds: 5                          # seeds 0 to 4
    overrides: [scale=paper]          # of every row, as after `dvc exp run -S`; none where it is left out
    measures:                         # heading: file under metrics/, keys in it; HR@10 and NDCG@10 where left out
      HR@10: evaluate.final.hr@10     # the first measure is the one that rows are tested by
    rows:
      TIGER:
        overrides: [system=tiger]     # null where the project has no such system: published figures alone
        published: {instruments: {HR@10: 0.1221}}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from tessera.errors import ParamsError
from tessera.params import PositiveInt, Section, load_section


def _one_line(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("expected a line of text without control characters")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Override = Annotated[Line, Field(pattern=r"^[a-z][a-z0-9_.]*=\S")]
Measure = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_@]+)+$")]


class Row(Section):
    """One system or setting: what is typed after `-S`, and what was published of it on each data set."""

    overrides: list[Override] | None
    published: dict[str, dict[str, float]] = Field(default_factory=dict)


class Table(Section):
    """Rows that are run on every data set with every seed, and compared."""

    title: Line
    datasets: Annotated[list[Name], Field(min_length=1)]
    seeds: PositiveInt
    overrides: list[Override] = Field(default_factory=list)
    measures: Annotated[dict[Line, Measure], Field(min_length=1)] = Field(
        default_factory=lambda: {"HR@10": "evaluate.final.hr@10", "NDCG@10": "evaluate.final.ndcg@10"}
    )
    rows: Annotated[dict[Line, Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _published_figures_have_a_place(self) -> "Table":
        for name, row in self.rows.items():
            for dataset, figures in row.published.items():
                _require(dataset, self.datasets, where=f"rows.{name}.published")
                for measure in figures:
                    _require(measure, self.measures, where=f"rows.{name}.published.{dataset}")
        return self


def load_table(folder: Path, name: str) -> Table:
    """Return the table folder/NAME.yaml.

    Raises ParamsError naming the key, what was expected and what was found, or the tables there are.
    """
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise ParamsError(f"{name}: expected a table of {folder}, one of {known}, found none such")
    return load_section(folder / f"{name}.yaml", Table)


def narrowed(table: Table, *, rows: Sequence[str], datasets: Sequence[str], seeds: int | None) -> Table:
    """Return table with these rows alone, as its title then says, and other data sets and seeds; what is empty stays.

    Raises ParamsError for a row that the table has not.
    """
    for name in rows:
        if name not in table.rows:
            raise ParamsError(f"{name}: expected a row of the table, one of {list(table.rows)}, found none such")
    kept = {name: row for name, row in table.rows.items() if name in rows or not rows}
    title = (
        f"{table.title}; of {len(table.rows)} rows {', '.join(kept)}" if len(kept) < len(table.rows) else table.title
    )
    changes = {
        "title": title,
        "rows": kept,
        "datasets": list(datasets) or table.datasets,
        "seeds": seeds or table.seeds,
    }
    return table.model_copy(update=changes)


def _require(name: str, known: list[str] | dict[str, str], *, where: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: expected one of {list(known)}, found {name!r}")
