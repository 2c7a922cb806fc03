"""Training curves that can be watched while they grow, as DVCLive writes them; without DVCLive there are none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.errors import TesseraError
from tessera.runtime import is_main_process, log


@contextmanager
def live_curves(folder: Path) -> Iterator[Callable[[dict[str, float]], None]]:
    """Give a function that adds one epoch's row (with its number as `epoch`) to one curve a name under folder.

    The log tells of the row too.
    """
    try:
        from dvclive.live import Live
    except ImportError:
        log.warning("no live curves: DVCLive is not installed")
        yield _tell
        return
    if not is_main_process():
        yield lambda _: None
        return
    with _removed_on_error(folder), Live(str(folder), dvcyaml=None, report=None, save_dvc_exp=False) as live:

        def add(row: dict[str, float]) -> None:
            _tell(row)
            live.step = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    live.log_metric(name, value)
            live.sync()

        yield add
    (folder / "metrics.json").unlink(missing_ok=True)  # DVCLive's copy of the last row, which is no curve to draw


def _tell(row: dict[str, float]) -> None:
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in row.items()))


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Remove folder where the block ends with an error of tessera's own; what was merely cut short stays to look at."""
    try:
        yield
    except TesseraError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
