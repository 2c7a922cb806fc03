"""Let experiments that run at the same time share what they fetch."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process at a time work on target, a file or folder; the others wait, and find it as it was left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
