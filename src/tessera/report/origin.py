"""What made the report: how long each stage ran and with what, the parameters, the versions, the files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tessera.errors import TableError


class Run(NamedTuple):
    """What the run of a stage took."""

    stage: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    gpu_peak_bytes: int | None
    processes: int
    finished: str


class Version(NamedTuple):
    """A package, and its versions in all stages: more than one where stages ran at different times."""

    package: str
    versions: list[str]


class File(NamedTuple):
    """A file that the report was made of."""

    name: str
    bytes: int
    md5: str  # as in dvc.lock


class Origin(NamedTuple):
    """All of it."""

    runs: list[Run]
    machines: list[str]
    versions: list[Version]
    parameters: list[tuple[str, list[tuple[str, str]]]]  # by section
    files: list[File]


def origin_of(records: Mapping[str, Any], parameters: Mapping[str, Any], files: Sequence[File]) -> Origin:
    """Return where the report comes from; records are what each stage's run took, by stage."""
    return Origin(
        runs=[Run(stage, **{name: record[name] for name in Run._fields[1:]}) for stage, record in records.items()],
        machines=list(dict.fromkeys(_machine(record["machine"]) for record in records.values())),
        versions=versions_of(record["versions"] for record in records.values()),
        parameters=sections_of(parameters),
        files=list(files),
    )


def _machine(machine: Mapping[str, Any]) -> str:
    parts = (f"{machine['cpu']}, {machine['cores']} cores", machine["gpu"], machine["system"])
    return "; ".join(part for part in parts if part)


def versions_of(of_stages: Any) -> list[Version]:
    """Return the packages in the order of their names."""
    found: dict[str, set[str]] = {}
    for versions in of_stages:
        for package, version in versions.items():
            found.setdefault(package, set()).add(version)
    return [Version(package, sorted(found[package])) for package in sorted(found)]


def sections_of(parameters: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return parameters by section, values as YAML spells them; those of no section come first, under no name."""
    alone = [(name, spelled(value)) for name, value in parameters.items() if not isinstance(value, Mapping)]
    sections = [
        (section, [(name, spelled(value)) for name, value in values.items()])
        for section, values in parameters.items()
        if isinstance(values, Mapping)
    ]
    return [("", alone), *sections]


def spelled(value: Any) -> str:
    """Return a value as YAML spells it: null, true, [1, 2]."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {spelled(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(spelled, value)) + "]"
    return str(value)


def fingerprint(path: Path) -> File:
    """Return the size and MD5 of a file, by which dvc.lock knows it and DVC's cache keeps it.

    Raises TableError where there is none.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            return File(path.as_posix(), stream.tell(), digest.hexdigest())
    except OSError as error:
        raise TableError(f"{path}: expected a file: {error.strerror}") from error
