"""What the runs of a table measured, read from git and DVC's cache without a change to the working tree.

What a run measured is in the commit of its experiment (metrics/*.json, and dvc.lock, which names the file of the ranks
in the cache). Where the ranks are not in the cache, the row has its measures but no test.
"""

import json
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from tessera.artifacts import read_table
from tessera.errors import SourceError
from tessera.experiments.runs import Experiment, Plan, Refusal, git
from tessera.experiments.statistics import Floats, holm, permutation_test
from tessera.experiments.tables import Table
from tessera.measures import FINAL
from tessera.schemas import PER_USER

#: What each user gains by the rank of his target (N,), for each measure that is a mean of such gains: `hr@10`.
Gains = Mapping[str, Callable[[Floats], Floats]]

NOT_RUN: Final = "not run"
PUBLISHED_ONLY: Final = "published figures only"
#: Of a row that was run before the data changed, and so is not to be compared with the others.
OTHER_DATA: Final = "on other data than the latest run: `dvc exp remove` it, and run it again"

PER_USER_FILE: Final = "data/evaluate/per_user.parquet"
#: The stage that reads the reviews, and those that read files or folders which parameters name. How dvc.lock tells of
#: a stage's inputs, of outputs, and of one of either; and which inputs are code.
_FIRST_STAGE: Final = "download_reviews"
_READERS: Final = ("embed_text", "distill_images", "embed_images", "resolve_collisions")
_INPUTS: Final = r"^  {}:\n.*?^    (?:params|outs):"
_OUTPUTS: Final = re.compile(r"^    outs:\n((?:    - path: .*\n(?:      .*\n)*)+)", re.MULTILINE)
_FILE: Final = re.compile(r"    - path: (.*(?:\n        .*)*)\n((?:      .*\n)*)")  # long paths take several lines
_IS_CODE: Final = re.compile(r"(?:src|stages)/")
_LOCKED: Final = re.compile(rf"path: {re.escape(PER_USER_FILE)}\n +hash: md5\n +md5: '?([0-9a-f]{{32}})")


class Cell(NamedTuple):
    """A measure of a row: over the seeds that were run, and as published."""

    mean: float | None
    deviation: float | None  # of a sample; None for one seed
    published: float | None

    @property
    def difference(self) -> float | None:
        """How far the mean is from what was published, as a share of that."""
        return self.mean / self.published - 1 if self.mean is not None and self.published else None


class Rival(NamedTuple):
    """The best other row by the first measure, how much better than it a row is, and how likely by chance alone.

    Chance is that of the users: of these trainings, and not of others with other seeds.
    """

    row: str
    gain: float
    p_value: float  # adjusted for all pairs of rows of the same users, since which one is best was seen before


class Line(NamedTuple):
    """A row on a data set."""

    row: str
    status: str  # empty where every seed was run
    seeds: int  # that were run
    cells: dict[str, Cell]
    rival: Rival | None
    seconds: float | None  # mean of a run
    parameters: int | None  # of the T5


class Part(NamedTuple):
    """All rows on a data set."""

    dataset: str
    lines: list[Line]


class Results(NamedTuple):
    """All that a table shows."""

    title: str
    measures: list[str]
    seeds: int
    flips: int
    parts: list[Part]
    baselines: list[str]  # commits

    @property
    def measures_without_a_value(self) -> list[str]:
        """The measures that no run has, where there are runs: most likely they are misspelt."""
        lines = [line for part in self.parts for line in part.lines if line.seeds]
        return [name for name in self.measures if lines and all(line.cells[name].mean is None for line in lines)]


class _Read(NamedTuple):
    """What one run read: paths from outside the pipeline, each with the lines of dvc.lock that tell of it."""

    reviews: dict[str, str]
    files: dict[str, str]  # of vectors, IDs and weights


class _Measured(NamedTuple):
    """What one run measured."""

    values: dict[str, float]
    gains: pl.DataFrame | None  # user, gain by the first measure
    seconds: int | None
    parameters: int | None


def collect(
    table: Table,
    plans: Sequence[Plan],
    refusals: Sequence[Refusal],
    *,
    experiments: Mapping[str, Experiment],
    cache: Path,
    gains: Gains,
    flips: int,
    generator: np.random.Generator,
) -> Results:
    """Return what the experiments, by fingerprint, say of the planned runs of a table.

    plans and refusals are all of the table's. cache is the folder of DVC's cache. flips are those of each test.
    """
    there = [plan for plan in plans if plan.fingerprint in experiments]
    measured = {
        plan: _read_run(experiments[plan.fingerprint], measures=table.measures, cache=cache, gains=gains)
        for plan in there
    }
    parts = []
    for dataset in table.datasets:
        reasons = {
            refusal.row: f"cannot be composed: {refusal.reason}" for refusal in refusals if refusal.dataset == dataset
        }
        alike = on_the_latest_data({plan: experiments[plan.fingerprint] for plan in there if plan.dataset == dataset})
        runs = {row: [measured[plan] for plan in alike if plan.row == row] for row in table.rows}
        reasons |= {plan.row: OTHER_DATA for plan in there if plan.dataset == dataset and plan not in alike}
        rivals = find_rivals(
            {row: _mean_gains([run.gains for run in of_row]) for row, of_row in runs.items()},
            flips=flips,
            generator=generator,
        )
        lines = [
            _line(table, dataset, row, runs[row], reason=reasons.get(row), rival=rivals.get(row)) for row in table.rows
        ]
        parts.append(Part(dataset, lines))
    baselines = sorted({experiments[plan.fingerprint].baseline for plan in there})
    return Results(table.title, list(table.measures), table.seeds, flips, parts, baselines)


def on_the_latest_data(runs: Mapping[Plan, Experiment]) -> list[Plan]:
    """Return the runs, of one data set, that read what the latest of them read.

    They read the same reviews; of vectors, IDs and weights from files, each may read its own, and of a file that
    several read, the version that the latest of these did. Parameters name a file or folder, and tell nothing of what
    is in it; dvc.lock does.
    """
    if not runs:
        return []
    read = {plan: _read_by(experiment) for plan, experiment in runs.items()}
    latest_first = sorted(runs, key=lambda plan: -runs[plan].ended)
    reviews = read[latest_first[0]].reviews
    newest = ChainMap(*(read[plan].files for plan in latest_first))
    return [plan for plan in runs if read[plan].reviews == reviews and read[plan].files.items() <= newest.items()]


def _read_by(experiment: Experiment) -> _Read:
    """Return what an experiment read from outside the pipeline."""
    lock = _file_of(experiment, "dvc.lock") or ""
    written = {path for outputs in _OUTPUTS.findall(lock) for path, _ in _FILE.findall(outputs)}

    def inputs_of(stage: str) -> dict[str, str]:
        found = re.search(_INPUTS.format(stage), lock, re.DOTALL | re.MULTILINE)
        told = _FILE.findall(found[0]) if found else []
        return {path: lines for path, lines in told if path not in written and not _IS_CODE.match(path)}

    return _Read(inputs_of(_FIRST_STAGE), dict(ChainMap(*map(inputs_of, _READERS))))


def find_rivals(
    gains: Mapping[str, pl.DataFrame | None], *, flips: int, generator: np.random.Generator
) -> dict[str, Rival]:
    """Return for each row the best other one, from user and mean gain of each; None where a row's are not known.

    The two best rows are each other's rivals: one test. The test is of users in pairs, so that only rows of the same
    users are rivals: those of another split are compared among themselves, and a row alone with its users has none.

    The best is the best of these data, so that all pairs were in play, and Holm's correction is for all of them.
    """
    known = {row: table for row, table in gains.items() if table is not None}
    best_first = sorted(known, key=lambda row: -known[row]["gain"].to_numpy().mean())
    others = {
        row: next(each for each in best_first if each != row and known[each]["user"].equals(table["user"]))
        for row, table in known.items()
        if sum(table["user"].equals(other["user"]) for other in known.values()) > 1
    }
    differences = {row: (known[row]["gain"] - known[other]["gain"]).to_numpy() for row, other in others.items()}
    pairs = {frozenset((row, others[row])): difference for row, difference in differences.items()}
    in_play = sum(one["user"].equals(other["user"]) for one, other in combinations(known.values(), 2))
    found = [permutation_test(each, flips=flips, generator=generator) for each in pairs.values()]
    p_values = holm(found, tests=in_play)
    adjusted = dict(zip(pairs, p_values, strict=True))
    return {
        row: Rival(others[row], float(difference.mean()), adjusted[frozenset((row, others[row]))])
        for row, difference in differences.items()
    }


def _line(
    table: Table,
    dataset: str,
    row: str,
    runs: Sequence[_Measured],
    *,
    reason: str | None,
    rival: Rival | None,
) -> Line:
    published = table.rows[row].published.get(dataset, {})
    cells = {name: _cell([run.values.get(name) for run in runs], published.get(name)) for name in table.measures}
    seconds = [run.seconds for run in runs if run.seconds is not None]
    parameters = {run.parameters for run in runs}
    if table.rows[row].overrides is None:
        status = PUBLISHED_ONLY
    elif reason is not None:
        status = reason
    else:
        status = NOT_RUN if not runs else f"{len(runs)} of {table.seeds} seeds" if len(runs) < table.seeds else ""
    return Line(
        row=row,
        status=status,
        seeds=len(runs),
        cells=cells,
        rival=rival,
        seconds=float(np.mean(seconds)) if seconds else None,
        parameters=parameters.pop() if len(parameters) == 1 else None,
    )


def _cell(values: Sequence[float | None], published: float | None) -> Cell:
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known else None
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return Cell(mean, deviation, published)


def _mean_gains(of_seeds: Sequence[pl.DataFrame | None]) -> pl.DataFrame | None:
    """Return user and gain, averaged over seeds and sorted by user; None where a seed's are not known."""
    known = [table for table in of_seeds if table is not None]
    if not known or len(known) < len(of_seeds):
        return None
    return pl.concat(known).group_by("user").agg(pl.col("gain").mean()).sort("user")


def _read_run(experiment: Experiment, *, measures: Mapping[str, str], cache: Path, gains: Gains) -> _Measured:
    documents = {
        stage: _metrics(experiment, stage)
        for stage in {"evaluate", "train_t5", *(path.partition(".")[0] for path in measures.values())}
    }
    found = {name: _value(documents, path) for name, path in measures.items()}
    parameters = _value(documents, "train_t5.parameters")
    return _Measured(
        values={name: value for name, value in found.items() if value is not None},
        gains=_gains(experiment, documents["evaluate"], next(iter(measures.values())), cache=cache, gains=gains),
        seconds=experiment.ended - experiment.started if experiment.started is not None else None,
        parameters=None if parameters is None else int(parameters),
    )


def _metrics(experiment: Experiment, stage: str) -> Any:
    """Return metrics/STAGE.json of an experiment, or an empty document where it has none."""
    text = _file_of(experiment, f"metrics/{stage}.json")
    return json.loads(text) if text is not None else {}


def _file_of(experiment: Experiment, path: str) -> str | None:
    try:
        return git("show", f"{experiment.commit}:{path}").decode()
    except SourceError:
        return None


def _value(documents: Mapping[str, Any], path: str) -> float | None:
    """Return the number at a dotted path, `evaluate.final.hr@10`, or None where there is none."""
    value: Any = documents
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _gains(
    experiment: Experiment, measured: Mapping[str, Any], path: str, *, cache: Path, gains: Gains
) -> pl.DataFrame | None:
    """Return user and gain of the test split by the measure at path; None where it is no mean of gains over users."""
    stage, ranking, *deeper = path.split(".")
    if stage != "evaluate" or len(deeper) != 1 or deeper[0] not in gains:
        return None
    if ranking == FINAL:
        ranking = next((name for name in measured if name != FINAL and measured[name] == measured.get(FINAL)), FINAL)
    file = _cached(experiment, cache)
    if file is None:
        return None
    rows = read_table(file, PER_USER, columns=["split", "user", "ranking", "rank"])
    rows = rows.filter(split="test", ranking=ranking).sort("user")
    ranks = rows["rank"].cast(pl.Float64).fill_null(np.inf).to_numpy()
    return pl.DataFrame({"user": rows["user"], "gain": gains[deeper[0]](ranks)}) if rows.height else None


def _cached(experiment: Experiment, cache: Path) -> Path | None:
    """Return where DVC's cache has the per-user ranks of an experiment, or None where it has not."""
    match = _LOCKED.search(_file_of(experiment, "dvc.lock") or "")
    if match is None:
        return None
    file = cache / "files" / "md5" / match[1][:2] / match[1][2:]
    return file if file.is_file() else None
