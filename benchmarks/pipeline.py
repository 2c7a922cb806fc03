"""How much of a cold `dvc repro` of the demo is the stages' own work, and what the rest goes to.

A fresh clone of the repository, with what the working tree has changed, runs the pipeline with this environment: no
run cache, no outputs. A stage's own work is the time inside its `main`, without the imports made there; the rest is
imports, the start and the end of the process, and DVC. A stage that has nothing for torch to do must not import it.
All rates are runs of the pipeline an hour, from one and the same run:

    ours    the run as a whole, by DVC
    peer    the stages' processes alone: what a shell script that starts one after the other would take
    limit   the stages' own work alone; ours as a fraction of it is 1 - the share outside of the own work

The clock is outside of the product: `stage_clock` times imports in every process of the run, and a `python` that
comes first in PATH tells when each began and ended.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer
from side_by_side import Case, report

from tessera.compose import composed

ROOT = Path(__file__).parents[1]
CLOCK = Path(__file__).parent / "stage_clock"
HOUR = 3600

#: Stages that compute with torch whatever the encoders are.
NEED_TORCH = ("cluster_items", "train_quantizer", "resolve_collisions", "train_t5", "rank_items")

#: In the place of `python`: runs it, and adds when it began and ended and which file it ran to $STAGE_TIMES.
STOPWATCH = """#!/usr/bin/env bash
start=$EPOCHREALTIME
{python} "$@"
status=$?
echo "$start $EPOCHREALTIME $1" >> "$STAGE_TIMES"
exit $status
"""


class Stage(NamedTuple):
    """What a stage's process took, in seconds: from beginning to end, for imports, and for its own work."""

    name: str
    process: float
    imports: float
    own: float
    torch: bool  # whether it imported torch

    @property
    def start_and_end(self) -> float:
        """What is neither import nor own work: the interpreter's start and end, and reading the command line."""
        return self.process - self.imports - self.own


class Run(NamedTuple):
    """A run of the pipeline: seconds in all, and its stages in their order."""

    seconds: float
    stages: list[Stage]
    same_metrics: bool  # whether the metrics that git keeps came out as they are there

    @property
    def own(self) -> float:
        """Seconds of all stages' own work."""
        return sum(stage.own for stage in self.stages)

    @property
    def processes(self) -> float:
        """Seconds of all stages' processes."""
        return sum(stage.process for stage in self.stages)


def main(
    to: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Three runs, of which the median one counts.")] = False,
    until: Annotated[str, typer.Option(help="The stage to end with.")] = "write_report",
    changes: Annotated[list[str], typer.Option("--set", help="KEY=VALUE, as `dvc exp run -S` takes it.")] = [],  # noqa: B006
) -> None:
    """Time a cold run of the pipeline."""
    runs = [cold_run(until=until, changes=changes) for _ in range(3 if full else 1)]
    for run in runs:
        require_no_torch(run.stages)
    report("pipeline", [case_of(sorted(runs, key=outside)[len(runs) // 2])], to=to)


def cold_run(*, until: str, changes: list[str]) -> Run:
    """Return what a run took in a new clone, up to a stage and with parameters changed."""
    with TemporaryDirectory() as folder:
        clone, bin_, clock, times = (Path(folder, name) for name in ("clone", "bin", "clock", "times"))
        copy_repository(clone)
        if changes:
            (clone / "params.yaml").write_text(composed(clone / "conf", changes))
        bin_.mkdir()
        (bin_ / "python").write_text(STOPWATCH.format(python=sys.executable))
        (bin_ / "python").chmod(0o755)
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(clone / "src"), str(CLOCK)]),
            "STAGE_CLOCK": str(clock),
            "STAGE_TIMES": str(times),
        }
        start = time.perf_counter()
        command = ["dvc", "repro", until]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: expected status 0, found {done.returncode}\n{done.stderr}")
        changed = subprocess.run(["git", "diff", "--quiet", "--", "metrics"], cwd=clone, check=False).returncode
        return Run(seconds, stages_of(clock, times), same_metrics=not changed)


def copy_repository(to: Path) -> None:
    """Write a clone of the repository with the tracked files as they are in the working tree."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(to)], check=True)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def stages_of(clock: Path, times: Path) -> list[Stage]:
    """Return the stages that the two files tell of."""
    told = {line["stage"]: line for line in map(json.loads, clock.read_text().splitlines())}
    stages = []
    for line in times.read_text().splitlines():
        start, end, script = line.split()
        clock_of = told[Path(script).stem]
        process = float(end) - float(start)
        stages.append(Stage(clock_of["stage"], process, clock_of["imports"], clock_of["own"], clock_of["torch"]))
    return stages


def require_no_torch(stages: list[Stage]) -> None:
    """Raise where a stage imported torch that has, with the demo's parameters, no work for it."""
    needless = [stage.name for stage in stages if stage.torch and stage.name not in NEED_TORCH]
    if needless:
        raise SystemExit(f"expected torch to be imported by none but {', '.join(NEED_TORCH)}, found {needless}")


def outside(run: Run) -> float:
    """Return the share of a run that is not the stages' own work."""
    return 1 - run.own / run.seconds


def case_of(run: Run) -> Case:
    """Return run as a comparison."""
    facts: dict[str, float | str] = {
        "seconds": run.seconds,
        "share outside the stages' own work": outside(run),
        "seconds of own work": run.own,
        "seconds of imports": sum(stage.imports for stage in run.stages),
        "seconds of starting and ending processes": sum(stage.start_and_end for stage in run.stages),
        "seconds of DVC": run.seconds - run.processes,
        "metrics as in git": "yes" if run.same_metrics else "no",
    }
    for stage in run.stages:
        spent = f"own work {stage.own:.2f}, imports {stage.imports:.2f}, start and end {stage.start_and_end:.2f}"
        facts[stage.name] = f"{spent} seconds"
    return Case("dvc repro", "runs/hour", HOUR / run.processes, HOUR / run.seconds, HOUR / run.own, facts)


if __name__ == "__main__":
    typer.run(main)
