"""Whether this process waits for processor cores that other programs use.

Threads that share an operation wait for the last of them, spinning, and one that has no core holds all others up at
every operation. On two cores, beside a program that used one of them, the T5 of the demo trained at a quarter of its
speed where that was a loop, at a hundredth where it was another training. With threads that sleep while they wait it
had two thirds of its speed there; but they are woken anew for every operation, which takes twice as long on a machine
that does nothing else. So it is told, and not done for everyone.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

Element = TypeVar("Element")

#: Seconds that are looked at together, and the share of them, of all threads together, from which on it is told.
STRETCH: Final = 10.0
SHARE: Final = 0.5

#: Where Linux tells of each thread how many nanoseconds it has run and waited for a core; elsewhere nothing is told.
TASKS: Final = Path("/proc/self/task")

log = logging.getLogger("tessera")


def seconds_waited(tasks: Path = TASKS) -> float:
    """Return how long the threads of this process have waited for a core, all together."""
    waited = 0
    for file in tasks.glob("*/schedstat"):
        try:
            waited += int(file.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue  # a thread that has just ended, or a system that counts nothing
    return waited / 1e9


def watched(elements: Iterable[Element]) -> Iterator[Element]:
    """Yield elements; where threads wait long for a core while they are worked at, one warning tells it."""
    told = "OMP_WAIT_POLICY" in os.environ or os.environ.get("OMP_NUM_THREADS") == "1"  # nothing is left to say
    begun, before = time.monotonic(), seconds_waited()
    for element in elements:
        yield element
        now = time.monotonic()
        if told or now - begun < STRETCH:
            continue
        waited = seconds_waited() - before
        if waited > SHARE * (now - begun):
            told = True
            log.warning(
                "of the last %.0f s threads waited %.0f s for a core: other programs use them, which can make this "
                "many times slower; with OMP_WAIT_POLICY=passive in the environment it is less so, with the same "
                "results",
                now - begun,
                waited,
            )
        begun, before = now, before + waited
