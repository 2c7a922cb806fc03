"""Where local sources are, also in the copies of the repository that DVC makes for experiments."""

from pathlib import Path

from tessera.runtime import log

#: Under a repository, the folder of such copies.
EXPERIMENTS = (".dvc", "tmp", "exps")


def at_home(path: Path) -> Path:
    """Return path; in DVC's copy of a repository, a relative path is one of the repository itself.

    The copy lacks what is not in git, and lies elsewhere: `../shop` and `downloads` would mean other folders in it.
    """
    working = Path.cwd()
    for folder in working.parents:
        if folder.parts[-len(EXPERIMENTS) :] == EXPERIMENTS:
            return folder.parents[len(EXPERIMENTS) - 1] / path
    return path


def found_at_home(name: str, *, watch: str, key: str) -> str:
    """Return the path at home that name spells where there is one, and else name: a model's that is published.

    Warns where there is one that DVC does not watch, which it does where the parameter key, whose value is watch, says.
    """
    path = at_home(Path(name))
    if not path.exists():
        return name
    warn_unless_watched(name, watch=watch, key=key)
    return str(path)


def warn_unless_watched(source: str, *, watch: str, key: str) -> None:
    """Warn where DVC does not watch source, which it does where the parameter key, whose value is watch, says."""
    if not is_watched(Path(source), watch=Path(watch)):
        log.warning("%s: DVC does not see when it changes: set %s to it, or to its folder", source, key)


def is_watched(source: Path, *, watch: Path) -> bool:
    """Return whether source is watch or lies in it."""
    return at_home(source).resolve().is_relative_to(at_home(watch).resolve())
