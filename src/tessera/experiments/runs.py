"""Which runs a table asks for, which of them are there, and how the others are run.

A run is a DVC experiment. It is found again by a fingerprint of its parameters: by every table that asks for the same,
and after any commit. The code is no part of the fingerprint, so that a new line of the README does not cost a night;
what code a run had is its baseline, the commit that DVC keeps it under. A parameter that a run did not know yet counts
as having the value of conf/, which for a new one is the value that changes nothing.

A run is made in DVC's copy of the repository (`dvc exp run --temp`), and stages whose inputs are known come from DVC's
cache. To make the copy DVC sets aside what is not committed for a moment, and puts it back.
"""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from tessera.compose import composed, composed_by_seed
from tessera.errors import ParamsError, SourceError
from tessera.experiments.tables import Table
from tessera.params import PARAMS_FILE, Params, checked_section

#: The command, of this environment; it waits for another one that holds the lock of the repository for a moment.
DVC: Final = (sys.executable, "-m", "dvc", "--wait-for-lock")

#: Hexadecimal digits of a fingerprint in a name.
DIGITS: Final = 12

#: What says only where to run: a run elsewhere is the same run.
WHEREABOUTS: Final = {"device", "launcher"}

#: The line of an experiment's message that holds the Unix time when it began.
STARTED: Final = "Started"

_REF: Final = re.compile(rf"refs/exps/(?P<baseline>[0-9a-f]{{2}}/[0-9a-f]{{38,}})/.+-[0-9a-f]{{{DIGITS}}}")


class Plan(NamedTuple):
    """A run that a table asks for."""

    row: str
    dataset: str
    seed: int
    overrides: tuple[str, ...]  # what stands after `dvc exp run -S`
    fingerprint: str


class Refusal(NamedTuple):
    """A row that conf/ cannot carry, and why."""

    row: str
    dataset: str
    reason: str


class Experiment(NamedTuple):
    """A run that is there."""

    commit: str
    baseline: str  # the commit whose code it ran, apart from changes that were not committed
    ended: int  # Unix time, as started
    started: int | None  # None where its message does not say


class Outcome(NamedTuple):
    """How the run of a plan went."""

    plan: Plan
    seconds: float
    log: Path
    succeeded: bool


def plan_runs(table: Table, *, conf: Path, settings: Sequence[str]) -> tuple[list[Plan], list[Refusal]]:
    """Return the runs of every row of table on each data set with each seed, and the rows that conf cannot carry.

    settings are more overrides of every row; they go before its own. A row that has none is neither run nor refused.
    """
    plans, refusals = [], []
    for dataset in table.datasets:
        for name, row in table.rows.items():
            if row.overrides is None:
                continue
            overrides = (*table.overrides, *settings, f"dataset={dataset}", *row.overrides)
            try:
                documents = composed_by_seed(conf, overrides, seeds=table.seeds)
                marks = [fingerprint(checked_section(document, Params, source=conf)) for document in documents]
            except ParamsError as error:
                refusals.append(Refusal(name, dataset, _reason(error)))
                continue
            plans += [Plan(name, dataset, n, (*overrides, f"seed={n}"), mark) for n, mark in enumerate(marks)]
    return plans, refusals


def rows_without(setting: str, table: Table) -> list[str]:
    """Return the rows for which a setting of every row does nothing, since they set the same parameter."""
    key = key_of(setting)
    return [name for name, row in table.rows.items() if key in map(key_of, row.overrides or ())]


def key_of(override: str) -> str:
    """Return the parameter, or the group of conf/, that an override sets: t5.lr of `t5.lr=0.01` or `+t5.lr=0.01`."""
    return override.partition("=")[0].lstrip("+~")


def fingerprint(params: Params) -> str:
    """Return what tells runs apart: DIGITS hexadecimal digits of all parameters but those that say where to run."""
    return hashlib.sha256(params.model_dump_json(exclude=WHEREABOUTS).encode()).hexdigest()[:DIGITS]


def _reason(error: ParamsError) -> str:
    """Return the first line of what was wrong, without where Hydra looked and what else it would have found there."""
    return str(error.__cause__ or error).splitlines()[0].removeprefix("In 'config.yaml': ")


def find_experiments(conf: Path) -> dict[str, Experiment]:
    """Return the latest run of each fingerprint that the repository of the working directory has.

    Raises SourceError where there is no repository.
    """
    defaults = OmegaConf.create(composed(conf))
    fields = ["%(refname)", "%(objectname)", "%(committerdate:unix)", f"%(trailers:key={STARTED},valueonly)"]
    listed = git("for-each-ref", "refs/exps", "--sort=committerdate", f"--format={'%00'.join(fields)}%00").decode()
    words = iter(word.strip() for word in listed.split("\0"))
    found = {}
    for ref, commit, ended, started in zip(words, words, words, words, strict=False):
        if match := _REF.fullmatch(ref):
            baseline = match["baseline"].replace("/", "")
            experiment = Experiment(commit, baseline, int(ended), int(started) if started else None)
            if params := _params_of(experiment, defaults):
                found[fingerprint(params)] = experiment
    return found


def _params_of(experiment: Experiment, defaults: DictConfig | ListConfig) -> Params | None:
    """Return what an experiment ran with, defaults where it knew no such parameter; None if it knew one that is gone.

    Data sets of another format have other parameters, so that none of the default one's is given to them.
    """
    text = git("show", f"{experiment.commit}:{PARAMS_FILE}").decode()
    known = OmegaConf.create(text)
    filled = OmegaConf.merge(defaults, known, {"dataset": None}, {"dataset": OmegaConf.select(known, "dataset")})
    try:
        return checked_section(OmegaConf.to_container(filled), Params, source=PARAMS_FILE)
    except ParamsError:
        return None


def run_plans(plans: Sequence[Plan], *, table: str, logs: Path) -> Iterator[Outcome]:
    """Run plans and yield how each went as soon as it is done; a failure stops no other.

    One at a time: when two processes run `dvc exp run --temp` in a repository, DVC may give the experiment of the one
    to the other. A stage that has several devices shares the work among them by the parameter `launcher`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        name = f"{table}-{plan.fingerprint}"
        log = logs / f"{name}.log"
        begun = time.monotonic()
        status = _run(plan, name=name, log=log)
        succeeded = status == 0 and _exists(name)
        yield Outcome(plan, time.monotonic() - begun, log, succeeded)


def _exists(name: str) -> bool:
    """Whether DVC has an experiment of this name."""
    return bool(git("for-each-ref", f"refs/exps/*/*/{name}"))


def _run(plan: Plan, *, name: str, log: Path) -> int:
    """Run a plan as the experiment name; return the exit status."""
    message = f"{plan.row}, {plan.dataset}, seed {plan.seed}\n\n{STARTED}: {int(time.time())}"
    settings = [word for override in plan.overrides for word in ("-S", override)]
    command = [*DVC, "exp", "run", "--temp", "--name", name, "--message", message, *settings]
    with log.open("w") as file:
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603


def git(*words: str) -> bytes:
    """Return what a git command prints in the working directory; raise SourceError with its message if it fails."""
    done = subprocess.run(["git", *words], capture_output=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise SourceError(f"git {words[0]}: {done.stderr.decode().strip()}")
    return done.stdout


def cache_folder() -> Path:
    """Return the folder of DVC's cache; raise SourceError where the working directory is in no DVC repository."""
    done = subprocess.run([*DVC, "cache", "dir"], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SourceError(f"dvc cache dir: {done.stderr.strip()}")
    return Path(done.stdout.strip())
