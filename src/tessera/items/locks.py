"""Let experiments that run at the same time share what they fetch."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process at a time work on target, a file or folder; the others wait, and find it as it was left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target, "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def until_nobody_waits(folder: Path) -> Iterator[Callable[[], None]]:
    """As one_at_a_time, and give a function that tells that folder has served its purpose.

    It is removed then, unless another process waits for it, which leaves it to that one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    told: list[bool] = []
    with _beside(folder, "present") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with one_at_a_time(folder):
            yield lambda: told.append(True)
    if told:
        _remove_alone(folder)


def _remove_alone(folder: Path) -> None:
    """Remove folder where no other process is there for it."""
    with _beside(folder, "present") as present, _beside(folder, "lock") as lock, contextlib.suppress(BlockingIOError):
        for file in (present, lock):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        Path(present.name).unlink(missing_ok=True)


def _beside(target: Path, suffix: str) -> IO[str]:
    return target.with_name(f"{target.name}.{suffix}").open("w")
