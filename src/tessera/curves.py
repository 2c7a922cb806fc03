"""Training curves that can be watched while they grow, as DVCLive writes them; without DVCLive there are none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.runtime import is_main_process, log


@contextmanager
def live_curves(folder: Path) -> Iterator[Callable[[dict[str, float]], None]]:
    """Give a function that adds one epoch's row (with its number as `epoch`) to one curve a name under folder."""
    try:
        from dvclive.live import Live
    except ImportError:
        log.warning("no live curves: DVCLive is not installed")
        yield lambda _: None
        return
    if not is_main_process():
        yield lambda _: None
        return
    with Live(str(folder), dvcyaml=None, report=None, save_dvc_exp=False) as live:

        def add(row: dict[str, float]) -> None:
            live.step = int(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    live.log_metric(name, value)
            live.sync()

        yield add
