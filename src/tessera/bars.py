"""The progress bar of a terminal, and the lines that take its place elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Element = TypeVar("Element")

#: Lines at most for the whole way, and seconds at least from one to the next.
LINES: Final = 10
PAUSE: Final = 5.0

log = logging.getLogger("tessera")


class RateColumn(ProgressColumn):
    """Elements a second."""

    def render(self, task: Task) -> Text:
        """Return the rate of late, or nothing before there is one."""
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", style="progress.data.speed")


def in_a_bar(elements: Iterable[Element], *, title: str, total: int | None, console: Console) -> Iterator[Element]:
    """Yield elements while a bar tells how many are done, how fast, and the time left; it vanishes at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(elements, total=total, description=title)


def in_lines(elements: Iterable[Element], *, title: str, total: int | None) -> Iterator[Element]:
    """Yield elements while a line of the log, now and then, tells how many are done, how fast, and the time left.

    At most LINES of them, PAUSE seconds apart; work that is done sooner says nothing. The end says nothing either,
    since whoever asked for the elements goes on then.
    """
    begun = told_at = time.monotonic()
    told = 0
    for done, element in enumerate(elements, start=1):
        yield element
        now = time.monotonic()
        if total and done < total and done * LINES // total > told and now - told_at >= PAUSE:
            told, told_at = done * LINES // total, now
            rate = done / (now - begun)
            log.info("%s: %d of %d, %.3g/s, %.0f s left", title, done, total, rate, (total - done) / rate)
