"""Where local sources are, also in the copies of the repository that DVC makes for experiments."""

from pathlib import Path

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


def is_watched(source: Path, *, watch: Path) -> bool:
    """Return whether source is watch or lies in it."""
    return at_home(source).resolve().is_relative_to(at_home(watch).resolve())
