"""The commands `tessera experiments run` and `tessera experiments show`: where the parts of this package meet.

They import what they need when they are called, since `tessera ids` needs nothing of it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tessera.artifacts import whole_file
from tessera.errors import ParamsError
from tessera.runtime import log

if TYPE_CHECKING:
    from tessera.experiments.runs import Outcome, Plan, Refusal
    from tessera.experiments.tables import Table

experiments = typer.Typer(help="Run named tables of experiments, and compare what came of them.", no_args_is_help=True)

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="The name of a file in the folder of tables.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N - 1 instead of the table's.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="This data set instead of the table's; again.")]
Rows = Annotated[list[str] | None, typer.Option("--rows", help="This row alone; again for another.")]
Settings = Annotated[list[str] | None, typer.Option("--set-param", "-S", help="Of every row, where no row sets it.")]
#: What a table sets by itself, and the option that asks for another.
OPTIONS = {"seed": "--seeds", "dataset": "--dataset"}

Tables = Annotated[Path, typer.Option(help="The folder of tables.")]
Conf = Annotated[Path, typer.Option(help="What parameters are composed from.")]
Output = Annotated[Path, typer.Option(help="Where logs and tables are written.")]


@experiments.command("run")
def run_table(
    name: TableName,
    *,
    seeds: Seeds = None,
    dataset: Datasets = None,
    rows: Rows = None,
    set_param: Settings = None,
    tables: Tables = Path("experiments"),
    conf: Conf = Path("conf"),
    output: Output = Path("report/experiments"),
) -> None:
    """Run what is not there yet of a table: each row on each data set with each seed.

    A run is there if DVC has an experiment of this command with the same parameters, whatever the commit.
    Each run starts from the working tree as it then is, changes of files that git knows included, and leaves it so. For
    a moment at its start DVC sets these changes aside: neither edit nor use git just then.
    A run that fails is named with its log and stops no other.
    """
    from tessera.experiments.results import OTHER_DATA, on_the_latest_data
    from tessera.experiments.runs import find_experiments, run_plans

    table = _asked(tables, name, rows=rows, datasets=dataset, seeds=seeds)
    plans, refusals = _planned(table, conf, set_param)
    for refusal in refusals:
        log.warning("%s, %s: cannot be composed: %s", refusal.row, refusal.dataset, refusal.reason)
    _require_some(name, plans, refusals)
    wanted = {plan.fingerprint: plan for plan in plans}
    there = find_experiments(conf)
    missing = [plan for mark, plan in wanted.items() if mark not in there]
    log.info("%s: %d runs are there, %d are to be done", name, len(wanted) - len(missing), len(missing))
    begun = time.monotonic()
    failed = 0
    for done, outcome in enumerate(run_plans(missing, table=name, logs=output / "logs"), start=1):
        failed += not outcome.succeeded
        left = (time.monotonic() - begun) / done * (len(missing) - done)
        log.info("%d of %d: %s; about %.0f s left", done, len(missing), _told(outcome), left)
    there = find_experiments(conf) if missing else there
    for each in table.datasets:
        known = {plan: there[plan.fingerprint] for plan in plans if plan.dataset == each and plan.fingerprint in there}
        for plan in sorted(known.keys() - set(on_the_latest_data(known))):
            log.warning("%s, %s, seed %d (*-%s): %s", *plan[:3], plan.fingerprint, OTHER_DATA)
    if failed:
        log.error("%d of %d runs failed", failed, len(missing))
        raise typer.Exit(1)


@experiments.command("show")
def show_table(
    name: TableName,
    *,
    seeds: Seeds = None,
    dataset: Datasets = None,
    rows: Rows = None,
    set_param: Settings = None,
    flips: Annotated[int, typer.Option(min=1, help="Random sign flips of the permutation test.")] = 100_000,
    draw: Annotated[int, typer.Option(min=0, help="The seed of the flips.")] = 0,
    tables: Tables = Path("experiments"),
    conf: Conf = Path("conf"),
    output: Output = Path("report/experiments"),
) -> None:
    """Show what a table's runs measured beside what was published, and write it as Markdown, CSV and HTML.

    These files are made from the experiments at any time, and so, like the report, no part of the repository, but for
    those of docs/tables, which the README tells of.
    """
    import numpy as np

    from tessera.experiments.page import csv_table, html_page, markdown_page, terminal_table
    from tessera.experiments.results import collect
    from tessera.experiments.runs import cache_folder, find_experiments
    from tessera.recommender.metrics import MEASURES

    table = _asked(tables, name, rows=rows, datasets=dataset, seeds=seeds)
    plans, refusals = _planned(table, conf, set_param)
    _require_some(name, plans, refusals)
    results = collect(
        table,
        plans,
        refusals,
        experiments=find_experiments(conf),
        cache=cache_folder(),
        gains=MEASURES,
        flips=flips,
        generator=np.random.default_rng(draw),
    )
    for measure in results.measures_without_a_value:
        log.warning("%s: no run has %s", measure, table.measures[measure])
    out = Console(highlight=False, emoji=False)
    for part in results.parts:
        out.print(terminal_table(part, results))
        out.print()
    for suffix, text in {"md": markdown_page, "csv": csv_table, "html": html_page}.items():
        path = output / f"{name}.{suffix}"
        with whole_file(path) as partial:
            partial.write_text(text(results))
        out.print(str(path), markup=False, soft_wrap=True)


def _asked(
    tables: Path, name: str, *, rows: list[str] | None, datasets: list[str] | None, seeds: int | None
) -> "Table":
    """Return the table with only the rows, on the data sets and with the seeds that were asked for."""
    from tessera.experiments.tables import load_table, narrowed

    return narrowed(load_table(tables, name), rows=rows or [], datasets=datasets or [], seeds=seeds)


def _planned(table: "Table", conf: Path, settings: Sequence[str] | None) -> "tuple[list[Plan], list[Refusal]]":
    from tessera.experiments.runs import key_of, plan_runs, rows_without

    for setting in settings or []:
        if (key := key_of(setting)) in OPTIONS:
            raise ParamsError(f"{setting}: expected a setting of every row, found what {OPTIONS[key]} says")
        if rows := rows_without(setting, table):
            log.warning("-S %s: without effect on what sets it by itself: %s", setting, ", ".join(rows))
    return plan_runs(table, conf=conf, settings=settings or [])


def _require_some(name: str, plans: "Sequence[Plan]", refusals: "Sequence[Refusal]") -> None:
    """Raise ParamsError where a table has rows to run and conf/ can carry none of them."""
    if refusals and not plans:
        raise ParamsError(
            f"{name}: expected a row that can be composed, found none in {len(refusals)}: {refusals[0].reason}"
        )


def _told(outcome: "Outcome") -> str:
    plan = outcome.plan
    how = "" if outcome.succeeded else f"failed, see {outcome.log}: "
    return f"{how}{plan.row}, {plan.dataset}, seed {plan.seed}, {outcome.seconds:.0f} s"
