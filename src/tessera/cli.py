"""The command `tessera`: what the pipeline made, at the terminal.

tessera ids B0002D01KO: the semantic IDs of the item with this key.
tessera ids text:12-7: the items whose text ID begins with the codes 12 and 7.
tessera recommend --history B0002D01KO,B0002E1G5C: what comes next.
tessera similar B0002D01KO: the items nearest to this one.
tessera add-items items.jsonl --added added: IDs for new items, and no ID changed.
tessera export shop: the model as a folder that needs no run any more.
tessera show: how good the recommendations are, and where the outputs lie.
tessera experiments run demo: the runs of the table experiments/demo.yaml that are not there yet.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tessera.artifacts import read_json, read_table
from tessera.errors import CheckpointError, DataError, TableError
from tessera.experiments.commands import experiments
from tessera.measures import FINAL, rankings_in
from tessera.runtime import Verbose, log, run, tell_more
from tessera.schemas import IDS, ITEMS
from tessera.using.commands import Added, Model, register
from tessera.using.keys import printable, unknown_key
from tessera.using.parts import RUN, are_of_one_run, find_parts, locked_stages, require_added, require_measured

#: A message names so many of the codes that there are.
LISTED: Final = 12

#: The measure whose interval is shown.
HEADLINE: Final = "hr@10"

#: Where a run has its measures.
MEASURED: Final = Path(RUN["metrics"])

_PREFIX: Final = re.compile(r"([a-z][a-z0-9_]*):(\d+(?:-\d+)*)-?")

out = Console(highlight=False, emoji=False)
commands = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
commands.add_typer(experiments, name="experiments")
register(commands)


class Prefix(NamedTuple):
    """The beginning of the IDs of a modality; spelled `text:12-7`."""

    modality: str
    codes: list[int]


@commands.callback()
def set_verbosity(*, verbose: Verbose = False) -> None:
    """Take the options of every command."""
    tell_more(verbose=verbose)


def app() -> None:
    """Run the command line and exit."""
    run(commands)


@commands.command("ids")
def show_ids(
    wanted: Annotated[str, typer.Argument(metavar="KEY|MODALITY:CODES", help="A key, or as in text:12-7.")],
    limit: Annotated[int, typer.Option(min=1, help="The most items to list.")] = 50,
    model: Model = Path(),
    added: Added = None,
) -> None:
    """Look up the semantic IDs of an item by its key, or the items of an ID prefix.

    A key, as in B0002D01KO, shows the IDs of the item; a prefix, as in text:12-7,
    lists the items whose text ID begins with the codes 12 and 7.
    What is the key of an item is never taken for a prefix.
    """
    if added is None:
        parts = find_parts(model)
        catalogue, semantic_ids = read_table(parts["items"], ITEMS), read_table(parts["ids"], IDS)
        trained = parts.trained or catalogue.height
    else:
        from tessera.using.shop import load_shop

        require_added(added)
        shop = load_shop(model, added=added)
        catalogue, semantic_ids, trained = shop.items, shop.ids, shop.trained
    item = catalogue.filter(pl.col("key") == wanted)
    prefix = parsed_prefix(wanted)
    if item.height:
        _print_item(item.row(0, named=True), ids_of(item.item(0, "item"), semantic_ids))
    elif prefix:
        _print_items(wanted, items_under(prefix, semantic_ids, catalogue), limit=limit)
    else:
        expected = "the key of an item, or an ID prefix as in text:12-7"
        raise unknown_key(wanted, catalogue, trained=trained, expected=expected)


@commands.command("show")
def show_metrics(
    evaluate: Annotated[Path, typer.Option(help="The measures.")] = MEASURED,
    intervals: Annotated[Path, typer.Option(help="Their intervals.")] = Path("data/evaluate/intervals.json"),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("report/index.html"),
    ensemble: Annotated[Path, typer.Option(help="What is recommended.")] = Path("data/evaluate/ensemble.parquet"),
    ids: Annotated[Path, typer.Option(help="The semantic IDs.")] = Path("data/resolve_collisions/ids.parquet"),
) -> None:
    """Print how good each ranking is on the test split, and where the outputs lie.

    The interval is left out where it is not known, as in a fresh clone, or is of another run than the measures, and so
    is an output that is not there or, like the IDs of a system that has none, empty. Measures that are not of the
    parameters and outputs as they are now are warned of.
    """
    rankings = rankings_in(read_json(evaluate))
    if not rankings:
        raise TableError(f"{evaluate}: expected measures of at least one ranking, found none")
    known, doubt = None, None
    try:
        stages = locked_stages(Path())
        if intervals.is_file() and are_of_one_run(Path(), stages, str(evaluate), str(intervals)):
            known = read_json(intervals)
        if evaluate == MEASURED:
            require_measured(Path(), stages)
    except CheckpointError as error:
        doubt = error
    out.print(_metrics_table(rankings, known))
    if doubt:
        log.warning("these measures may be of another run: %s", doubt)
    out.print()
    outputs = {"report": report, "recommendations": ensemble, "semantic IDs": ids}
    for name, path in outputs.items():
        if path.exists() and not (path == ids and read_table(ids, IDS, columns=["item"]).is_empty()):
            out.print(f"{name:<16} {path}", markup=False, soft_wrap=True)


def parsed_prefix(text: str) -> Prefix | None:
    """Return the ID prefix that text spells, as `text:12-7` does, or None where it spells none."""
    match = _PREFIX.fullmatch(text)
    return Prefix(match[1], [int(code) for code in match[2].split("-")]) if match else None


def spelled(codes: list[int]) -> str:
    """Return codes as they are shown and typed: 12-7-3."""
    return "-".join(map(str, codes))


def ids_of(item: int, ids: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the ID of item in each modality: modality, codes, first_codes, moved, and sharing.

    sharing counts for each level the items, this one included, that have the same codes up to there.
    """
    return [
        {**row, "sharing": _sharing(row["codes"], ids.filter(modality=row["modality"])["codes"])}
        for row in ids.filter(item=item).iter_rows(named=True)
    ]


def _sharing(codes: list[int], all_codes: pl.Series) -> list[int]:
    counts = []
    for level, code in enumerate(codes):
        all_codes = all_codes.filter(all_codes.list.get(level, null_on_oob=True) == code)
        counts.append(len(all_codes))
    return counts


def items_under(prefix: Prefix, ids: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return codes, key and title of the items whose ID begins with prefix, in the order of their codes.

    Raises DataError, naming what there is instead, where the modality is unknown or no ID begins so.
    """
    modalities = ids["modality"].unique().sort().to_list()
    if prefix.modality not in modalities:
        raise DataError(f"{prefix.modality}: expected a modality that has IDs, {_listed(modalities)}, found none such")
    found = ids.filter(modality=prefix.modality)
    for level, code in enumerate(prefix.codes):
        codes = found["codes"].list.get(level, null_on_oob=True)
        if code not in codes:
            before = f"after {spelled(prefix.codes[:level])}" if level else "first"
            known = codes.drop_nulls().unique().sort().to_list()
            expectation = f"{before} one of the codes {_listed(known)}" if known else f"at most {level} codes"
            raise DataError(f"{prefix.modality}:{spelled(prefix.codes)}: expected {expectation}, found {code}")
        found = found.filter(codes == code)
    return found.join(items, on="item").sort("codes").select("codes", "key", "title")


def _listed(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:LISTED]))
    return shown if len(values) <= LISTED else f"{shown}, ... ({len(values)} in all)"


def _print_item(item: dict[str, Any], ids: list[dict[str, Any]]) -> None:
    out.print(printable(item["key"]), style="bold", markup=False)
    out.print(printable(item["title"]) or "(no title)", markup=False)
    if item["categories"]:
        out.print(printable(" > ".join(item["categories"])), style="dim", markup=False)
    if not ids:
        out.print("it has no semantic ID: the system has none", style="dim")
        return
    table = Table("modality", "ID", "items that begin so", "before collisions", box=None, header_style="dim")
    for row in ids:
        first = spelled(row["first_codes"]) if row["moved"] else "the same"
        table.add_row(row["modality"], spelled(row["codes"]), ", ".join(map(str, row["sharing"])), first)
    out.print(table)


def _print_items(prefix: str, items: pl.DataFrame, *, limit: int) -> None:
    table = Table("ID", "key", "title", box=None, header_style="dim")
    for codes, key, title in items.head(limit).iter_rows():
        table.add_row(spelled(codes), escape(printable(key)), escape(printable(title)))
    out.print(table)
    left_out = f"; the first {limit} are shown, --limit shows more" if items.height > limit else ""
    out.print(f"{items.height} items begin with {prefix}{left_out}", style="dim", markup=False)


def _metrics_table(rankings: dict[str, dict[str, float]], known: dict[str, Any] | None) -> Table:
    columns = list(next(iter(rankings.values())))
    title = "test split" if known is None else f"test split, {known['users']['test']:,} users"
    table = Table("ranking", title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    for column in columns if known is None else [*columns, f"{100 * known['confidence']:g}% of {HEADLINE}"]:
        table.add_column(column, justify="right", no_wrap=True)
    for name, values in rankings.items():
        cells = [f"{values[column]:.4f}" for column in columns]
        if known is not None:
            bounds = known["intervals"].get(name, {}).get(HEADLINE)
            cells.append("{:.4f}-{:.4f}".format(*bounds) if bounds else "")
        table.add_row(name, *cells, style="bold" if name == FINAL else None)
    return table
