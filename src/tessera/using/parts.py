"""Where the parts of a model lie: in a repository in which the pipeline has run, or in an exported folder.

Both hold the same files under other names, but for one thing: who took what stays in the repository. What is counted
from it, how often each item sold and what follows it, is exported in its place.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tessera.errors import CheckpointError, TableError
from tessera.report.origin import fingerprint

#: The stage that embeds the items in each modality.
EMBEDDERS: Final = {"text": "embed_text", "image": "embed_images", "collaborative": "embed_collaborative"}

#: Where a run has each part; the second of the names in data/ is that of the stage which writes it.
RUN: Final = {
    "params": "params.yaml",
    "metrics": "metrics/evaluate.json",
    "items": "data/filter_reviews/items.parquet",
    "users": "data/filter_reviews/users.parquet",
    "interactions": "data/filter_reviews/interactions.parquet",
    "backbone": "data/distill_images/backbone",
    "codebooks": "data/distill_images/codebooks.parquet",
    "quantizer": "data/train_quantizer/quantizer",
    "ids": "data/resolve_collisions/ids.parquet",
    "vocabulary": "data/build_corpus/vocabulary.json",
    "checkpoint": "data/train_t5/checkpoint",
    "sequence_encoder": "data/embed_collaborative/encoder",
    "als_factors": "data/rank_collaborative/factors.parquet",
    "slist_strengths": "data/rank_collaborative/strengths.parquet",
    "weights": "data/evaluate/weights.parquet",
    "text_encoder": "data/embed_text/encoder",
    "image_encoder": "data/embed_images/encoder",
    **{f"{name}_vectors": f"data/{stage}/vectors.parquet" for name, stage in EMBEDDERS.items()},
}

#: The stages that make these parts; evaluate learns weights, but of what it reads nothing else is part of a model.
MAKERS: Final = {path.split("/")[1] for path in RUN.values() if path.startswith("data/")} - {"evaluate"}

#: The stage that neither makes a part nor measures, and parameters without effect on a measure: how many users are
#: ranked together, and the intervals and slices beside the measures.
REPORTER: Final = "write_report"
UNMEASURED: Final = ("decode.batch_size", "eval.")

#: Files that tell whether a repository's measures and parts are of one run.
TELLING: Final = ("metrics", "items", "ids", "vocabulary", "weights")

#: Where an exported folder has each part.
EXPORT: Final = {
    "params": "params.yaml",
    "metrics": "metrics.json",
    "items": "items.parquet",
    "popularity": "popularity.parquet",
    "transitions": "transitions.parquet",
    "backbone": "encoders/backbone",
    "codebooks": "codebooks.parquet",
    "quantizer": "quantizer",
    "ids": "ids.parquet",
    "vocabulary": "vocabulary.json",
    "checkpoint": "checkpoint",
    "sequence_encoder": "sequence_encoder",
    "als_factors": "als_factors.parquet",
    "slist_strengths": "slist_strengths.parquet",
    "weights": "weights.parquet",
    "text_encoder": "encoders/text",
    "image_encoder": "encoders/image",
    **{f"{name}_vectors": f"vectors/{name}.parquet" for name in EMBEDDERS},
}

#: What makes a folder an export: its format, how many items the model was trained on, and the size of each file.
MANIFEST: Final = "export.json"
FORMAT: Final = 2


#: What makes a folder one of added items: its format, and which IDs the items before them have.
ADDED: Final = "added.json"


@dataclass(frozen=True)
class Parts:
    """The parts of a model, by their names."""

    folder: Path
    paths: Mapping[str, Path]
    trained: int | None  # items that the model was trained on; None in a repository, where those are all

    def __getitem__(self, name: str) -> Path:
        """Return where a part is; raise TableError, naming what makes it, where it is not there."""
        path = self.paths.get(name)
        if path is None:
            raise TableError(f"{self.folder}: expected a repository with {RUN[name]}, found an export, which has none")
        if not path.exists():
            stage = RUN[name].split("/")[1] if RUN[name].startswith("data/") else None
            how = f" of the stage {stage}, found nothing: `dvc repro` makes it" if stage else ", found nothing"
            raise TableError(f"{path}: expected the output{how}" if stage else f"{path}: expected a file{how}")
        return path

    @property
    def is_export(self) -> bool:
        """Whether this is an exported folder."""
        return self.trained is not None


def find_parts(folder: Path) -> Parts:
    """Return the parts in folder, an export or a repository in which the pipeline has run.

    Raises CheckpointError where it is neither, or an export of another format or not as it was written, or a repository
    with parts of two runs.
    """
    if (folder / MANIFEST).is_file():
        return Parts(folder, {name: folder / path for name, path in EXPORT.items()}, _checked_export(folder))
    if not (folder / RUN["params"]).is_file():
        what = "nothing" if not folder.exists() else "a file" if folder.is_file() else "another folder"
        raise CheckpointError(
            f"{folder}: expected an exported folder ({MANIFEST}) or a repository ({RUN['params']}), found {what}"
        )
    stages = locked_stages(folder)
    _require_same_parameters(folder / RUN["params"], stages, of=MAKERS)
    _require_one_run(folder, stages)
    return Parts(folder, {name: folder / path for name, path in RUN.items()}, None)


def _require_one_run(folder: Path, stages: Mapping[str, Any]) -> None:
    """Raise CheckpointError where the parts in a repository are of two runs: one has begun since, and not ended.

    DVC's lock file tells what each stage read and wrote last, and its parameters. Where it has no checksum of a file,
    as of one that a remote keeps the versions of, nothing is known of that one.
    """
    written = _written(stages)
    for name, stage in stages.items():
        for read in stage.get("deps", ()) if name != REPORTER else ():
            found = read.get("md5")
            if written.get(read["path"], found) != found:
                raise CheckpointError(
                    f"{folder}: expected the outputs of one run, found {read['path']} written anew since the "
                    f"stage {name} has read it: a run stopped on its way; `dvc repro` makes the rest"
                )


def require_measured(folder: Path, stages: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a repository's measures are not those of its parts and parameters as they are now.

    stages are those of locked_stages.
    """
    _require_same_parameters(folder / RUN["params"], stages, of=stages.keys() - {REPORTER}, but=UNMEASURED)
    _require_one_run(folder, stages)
    files = [RUN[name] for name in TELLING if (folder / RUN[name]).is_file()]
    if not are_of_one_run(folder, stages, *files):
        raise CheckpointError(
            f"{folder}: expected {', '.join(files)} of one run, found some that dvc.lock tells of and some others; "
            "`dvc checkout` brings back the former, `dvc repro` makes all anew"
        )


def are_of_one_run(folder: Path, stages: Mapping[str, Any], *files: str) -> bool:
    """Whether the files of a repository were written together: all are those that stages tell of, or none is."""
    written = _written(stages)
    return len({fingerprint(folder / name).md5 == written.get(name) for name in files}) <= 1


def locked_stages(folder: Path) -> dict[str, Any]:
    """Return what DVC's lock file tells of each stage; nothing where there is none: stages were run by hand."""
    lock = folder / "dvc.lock"
    told = (_yaml(lock) or {}) if lock.is_file() else {}
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{lock}: expected stages as DVC writes them, found {str(told)[:20]!r}")
    return dict(told.get("stages", {}))


def _written(stages: Mapping[str, Any]) -> dict[str, str | None]:
    return {each["path"]: each.get("md5") for stage in stages.values() for each in stage.get("outs", ())}


def _require_same_parameters(path: Path, stages: Mapping[str, Any], *, of: Set[str], but: tuple[str, ...] = ()) -> None:
    """Raise CheckpointError where the file of parameters at path has others than one of these stages was run with.

    Those whose keys begin as `but` says may differ. For a model that is used it does not matter how lists were ranked,
    fused and measured: what reads them says what it needs.
    """
    if not stages:
        return
    known = dict(_leaves(_yaml(path)))
    for name in sorted(of & stages.keys()):
        for key, value in _leaves(stages[name].get("params", {}).get(path.name, {})):
            if known.get(key, value) != value and not key.startswith(but):
                raise CheckpointError(
                    f"{path}: expected {key} = {value!r}, with which the stage {name} was run, found {known[key]!r}; "
                    "set it back, or `dvc repro` makes everything with the new one"
                )


def _leaves(document: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in a document of mappings, each with its dotted key."""
    if not isinstance(document, Mapping):
        yield ".".join(names), document
        return
    for name, value in document.items():
        yield from _leaves(value, *names, name)


def _yaml(path: Path) -> Any:
    try:
        return YAML(typ="safe").load(path.read_text())
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: expected YAML, found none that can be read: {error}") from error


def is_added(folder: Path) -> bool:
    """Whether folder holds added items."""
    return (folder / ADDED).is_file()


def require_added(folder: Path) -> None:
    """Raise CheckpointError unless folder holds added items."""
    if not is_added(folder):
        what = "another" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise CheckpointError(f"{folder}: expected a folder that `tessera add-items` wrote, found {what}")


def read_manifest(path: Path, *, kind: str, form: int) -> dict[str, Any]:
    """Return the JSON object at path, which says that its folder is an export or holds added items.

    Raises CheckpointError where it cannot be read or is of another format.
    """
    try:
        document = json.loads(path.read_text())
        found = document["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected what tells of {kind}, found none to read: {error}") from error
    if found != form:
        raise CheckpointError(f"{path}: expected {kind} of format {form}, found format {found}")
    return dict(document)


def strangers_in(folder: Path) -> list[str]:
    """Return, sorted, the files in an export that it was not written with."""
    written = read_manifest(folder / MANIFEST, kind="an export", form=FORMAT)["files"]
    return sorted(sizes_of(folder).keys() - written.keys() - {MANIFEST})


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of each file in folder, by its path in it."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in _files(folder)}


def _files(folder: Path) -> Iterable[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)


def _checked_export(folder: Path) -> int:
    """Return how many items the model in an exported folder was trained on.

    Raises CheckpointError where a file is missing or of another size.
    """
    document = read_manifest(folder / MANIFEST, kind="an exported folder", form=FORMAT)
    found = sizes_of(folder)
    for name, size in document["files"].items():
        if found.get(name) != size:
            there = "nothing" if name not in found else f"{found[name]} bytes"
            raise CheckpointError(f"{folder / name}: expected {size} bytes, as {MANIFEST} says, found {there}")
    return int(document["trained"])
