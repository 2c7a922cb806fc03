"""Ours beside a peer: the same work in alternating runs of one process, and what the machine could do at most.

Alternating runs share whatever else the machine is doing, so their ratio says more than their times. All rates are in
units of work a second: more is better, for peer, ours and limit.
"""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

Peers = TypeVar("Peers")
Ours = TypeVar("Ours")

KIB = 1024
GIB = 2**30

#: Rows and columns of the product that the matrix rate is measured with on a CPU and on a GPU, and how often.
SIDE, SIDE_ON_GPU = 2048, 8192
PRODUCTS = 15

#: Bytes copied to measure the rate of copying.
COPIED = 2**28


class Case(NamedTuple):
    """One comparison: rates in unit, of which the limit is what the hardware allows, and what else was found."""

    name: str
    unit: str
    peer: float
    ours: float
    limit: float
    facts: Mapping[str, float | str]

    @property
    def ratio(self) -> float:
        """How many times as fast as the peer ours is."""
        return self.ours / self.peer

    @property
    def limit_fraction(self) -> float:
        """Which part of the limit ours reaches."""
        return self.ours / self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the case as the JSON file has it."""
        rates = {"peer": self.peer, "ours": self.ours, "ratio": self.ratio}
        limits = {"limit": self.limit, "limit_fraction": self.limit_fraction}
        return {"name": self.name, "unit": self.unit, **rates, **limits, "facts": dict(self.facts)}


class Growth(NamedTuple):
    """How the time of a piece of work grows with its size: seconds[i] for work[i] of unit."""

    name: str
    unit: str
    work: Sequence[float]
    seconds: Sequence[float]


class Alternated(NamedTuple):
    """Median seconds of a run of each, and what the last run of each returned."""

    peer: float
    ours: float
    peers_result: Any
    our_result: Any


def alternate(*, peer: Callable[[], Peers], ours: Callable[[], Ours], runs: int) -> Alternated:
    """Run ours and peer in turn, runs times each, and return their medians; nothing is warmed up before."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    results: dict[str, Any] = {}
    for _ in range(runs):
        for name, work in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            results[name] = work()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return Alternated(medians["peer"], medians["ours"], results["peer"], results["ours"])


def median_seconds(work: Callable[[], object], *, runs: int) -> float:
    """Return the median seconds of runs runs of work."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matrix_rate(device: str = "cpu", *, precision: str = "fp32") -> float:
    """Return the floating-point operations a second of products of large square matrices on device: the median.

    precision is fp32 or bf16. It is the rate of the faster of two: the product of `torch`, and that of ours.
    """
    import torch

    from tessera.products import linear

    side = SIDE if device == "cpu" else SIDE_ON_GPU
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = torch.randn(2, side, side, device=device, dtype=dtype).unbind()

    def seconds(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        def product() -> None:
            _ = multiply(one, other)
            if device != "cpu":
                torch.cuda.synchronize()

        product()  # what comes first takes longer
        return median_seconds(product, runs=PRODUCTS)

    return 2 * side**3 / min(seconds(torch.matmul), seconds(linear))


def copy_rate() -> float:
    """Return the bytes a second at which this process copies memory that no cache holds: the median."""
    import numpy as np

    one, other = np.ones((2, COPIED), dtype=np.uint8)
    return COPIED / median_seconds(lambda: np.copyto(one, other), runs=PRODUCTS)


class Spent(NamedTuple):
    """What a function took in a process of its own."""

    seconds: float  # without the start of the process
    peak_bytes: int  # the largest resident set, imports included
    result: Any


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Spent:
    """Return what work(*arguments), a function of a module, takes and returns in a fresh process."""
    # No multiprocessing.Pool, whose processes may not have any of their own, as a peer's readers are.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


class Apart(NamedTuple):
    """What each run of either side took, each in a process of its own."""

    peer: list[Spent]
    ours: list[Spent]


def alternate_apart(*, peer: Callable[[], Any], ours: Callable[[], Any], runs: int) -> Apart:
    """Run ours and peer in turn, runs times each, every run in a fresh process; both are functions of modules."""
    apart = Apart([], [])
    for _ in range(runs):
        apart.ours.append(in_own_process(ours))
        apart.peer.append(in_own_process(peer))
    return apart


def _measured(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Spent:
    start = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - start
    return Spent(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB, result)


def report(
    benchmark: str, cases: list[Case], *, growth: Sequence[Growth] = (), to: Path | None, device: str = "cpu"
) -> None:
    """Print cases as a table and, where to is given, write them as JSON; the first case stands for the benchmark.

    device is where they were measured.
    """
    table = Table("work", "unit", "peer", "ours", "times", "limit", "of limit", title=benchmark, title_justify="left")
    for case in cases:
        rates = (rounded(case.peer), rounded(case.ours), f"{case.ratio:.1f}", rounded(case.limit))
        table.add_row(case.name, case.unit, *rates, f"{case.limit_fraction:.0%}")
    console = Console()
    console.print(table)
    for case in cases:
        for fact, value in case.facts.items():
            console.print(
                f"{case.name}: {fact}: {rounded(value) if isinstance(value, float) else value}", soft_wrap=True
            )
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        headline = {key: value for key, value in cases[0].to_json().items() if key not in ("name", "facts")}
        document = {
            "benchmark": benchmark,
            **headline,
            "cases": [case.to_json() for case in cases],
            "growth": [each._asdict() for each in growth],
            "machine": machine(device),
        }
        to.write_text(json.dumps(document, indent=2) + "\n")


def with_told(page: str, told: str, *, begin: str, end: str) -> str:
    """Return page with what is told between the marks begin and end; raise ValueError where it has no marks."""
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"page: expected {begin} and {end}, found none")
    return f"{before}{begin}\n\n{told}\n\n{end}{after}"


def rounded(number: float) -> str:
    """Return number with three digits that count: 1,234,567 as 1,230,000 and 0.012345 as 0.0123."""
    if number == 0:
        return "0"
    digits = f"{number:.3g}"
    return f"{float(digits):,.0f}" if abs(number) >= 100 else f"{float(digits):g}"  # noqa: PLR2004 - three digits


def machine(device: str = "cpu") -> dict[str, str | int]:
    """Return what the measurements were made on; the GPU too where that was the device."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, str | int] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / GIB),
    }
    if device == "cpu":
        return found
    import torch

    return found | {"gpu": torch.cuda.get_device_name(device)}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
