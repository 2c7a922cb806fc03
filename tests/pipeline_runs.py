"""Run stages as dvc.yaml says, in this process, on a shop of a few shoppers."""

import importlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from ruamel.yaml import YAML
from typer.testing import CliRunner

from tessera.compose import composed
from tessera.runtime import command

ROOT = Path(__file__).parents[1]
_YAML = YAML(typ="safe", pure=True)
STAGES = _YAML.load((ROOT / "dvc.yaml").read_text())["stages"]

#: Parameters with which all stages together take seconds.
SMALL = {
    "dataset.users": 120,
    "dataset.items": 60,
    "device": "cpu",
    "text.dimensions": 16,
    "image.dimensions": 16,
    "distill.size": 16,
    "distill.patch": 4,
    "distill.width": 16,
    "distill.layers": 1,
    "distill.local_size": 8,
    "distill.local_views": 2,
    "distill.hidden": 16,
    "distill.bottleneck": 8,
    "distill.prototypes": 32,
    "distill.epochs": 2,
    "sequence.width": 8,
    "sequence.epochs": 2,
    "pseudo.clusters": 6,
    "quant.codebook_size": 8,
    "quant.hidden": [16],
    "quant.latent_dim": 8,
    "quant.diversity_clusters": 4,
    "quant.epochs": 5,
    "t5.d_model": 16,
    "t5.d_ff": 16,
    "t5.epochs": 2,
    "t5.batch_size": 256,
    "decode.beams": 10,
    "eval.resamples": 50,
    "report.examples": 2,
}

#: With these there is every kind of ranking in the ensemble.
MEMBERS = {"sequence.encoder": "sasrec", "collaborative.members": ["itemknn", "sasrec"]}

#: One modality, and the task that it has.
TEXT_ALONE = {"modalities": ["text"], "corpus.tasks": ["history text -> text"]}
IMAGE_ALONE = {"modalities": ["image"], "corpus.tasks": ["history image -> image"]}

CONF = ROOT / "conf"


def write_params(file: Path, changes: Mapping[str, Any], *, conf: Path = CONF, overrides: Sequence[str] = ()) -> None:
    """Write params.yaml, composed for the system that changes name, with dotted keys changed, as in {"filter.k": 2}.

    overrides are what stands after `dvc exp run -S`; changes come after them.
    """
    system = [f"system={changes['system']}"] if "system" in changes else []
    document = _YAML.load(_composed(conf, (*system, *overrides)))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        section = document
        for key in path:
            section = section[key]
        section[last] = value
    with file.open("w") as stream:
        _YAML.dump(document, stream)


@cache
def _composed(conf: Path, overrides: tuple[str, ...]) -> str:
    return composed(conf, overrides)


def run_stages(stages: Iterable[str], folder: Path, changes: Mapping[str, Any]) -> Path:
    """Run stages one after the other in folder, and return folder."""
    for stage in stages:
        run_stage(stage, folder, changes)
    return folder


def run_stage(
    stage: str,
    folder: Path,
    changes: Mapping[str, Any],
    *,
    inputs: Path | None = None,
    conf: Path = CONF,
    overrides: Sequence[str] = (),
) -> None:
    """Run a stage with its command line of dvc.yaml in folder; what it reads lies there, or in the folder inputs."""
    spec = STAGES[stage]
    for dependency in spec["deps"] if inputs else []:
        if dependency.startswith(("data/", "metrics/")):
            (folder / dependency).parent.mkdir(parents=True, exist_ok=True)
            (folder / dependency).symlink_to(inputs / dependency)
    write_params(folder / "params.yaml", changes, conf=conf, overrides=overrides)
    app = command(importlib.import_module(f"stages.{stage}").main)
    _, _, _, *options = shlex.split(spec["cmd"])
    AcceleratorState._reset_state(reset_partial_state=True)  # a stage is a process of its own, but not here
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, options, catch_exceptions=False)
    finally:
        os.chdir(before)
    assert done.exit_code == 0, f"{stage}: {done.output}"
