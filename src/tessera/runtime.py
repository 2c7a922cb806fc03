"""Where and how a stage runs: its entry point, its device, its processes, its log and its progress."""

import ctypes
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from tessera.errors import ParamsError, TesseraError
from tessera.records import write_record

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Element = TypeVar("Element")

#: Parameters of mallopt(3), which takes a C int.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1

console = Console(stderr=True, emoji=False)
log = logging.getLogger("tessera")


def run(main: Callable[..., None] | typer.Typer) -> None:
    """Run main as a Typer command, or the commands that it holds, and exit.

    What goes wrong on purpose becomes one clear message and exit status 1; a command line that does not fit becomes
    Typer's own message and exit status 2.
    """
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.ERROR, handlers=[_log_handler()])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    keep_freed_memory()
    app = main if isinstance(main, typer.Typer) else command(main)
    try:
        app()
    except TesseraError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def keep_freed_memory() -> None:
    """Have the C library keep memory that was freed for what is allocated next, where it can be told so (glibc).

    On a CPU each operation of torch allocates its result. What goes back to the system comes again page by page, each
    of them cleared: a tenth of a training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_INT)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def _log_handler() -> logging.Handler:
    """Return what writes the log: in colours at a terminal, in plain lines elsewhere."""
    if console.is_terminal:
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(
            console=console, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        return handler
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return handler


def command(main: Callable[..., None]) -> typer.Typer:
    """Return main, the function of a stage, as a command with one more option: --record, what its run took."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__)(_recorded(main))
    return app


def _recorded(main: Callable[..., None]) -> Callable[..., None]:
    """Return main with one more argument, record: where to write what the run took, once it has gone well."""
    kind = Annotated[Path | None, typer.Option(help="To write: time, memory and versions of this run.")]
    own = inspect.signature(main)
    option = inspect.Parameter("record", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    @functools.wraps(main)
    def recorded(*, record: Path | None, **options: Any) -> None:
        main(**options)
        if record is not None and is_main_process():
            write_record(record)

    recorded.__signature__ = own.replace(parameters=[*own.parameters.values(), option])  # type: ignore[attr-defined]
    recorded.__annotations__ = main.__annotations__ | {"record": kind}
    return recorded


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def torch_device(name: str) -> "torch.device":
    """Return the device that the parameter `device` names: `cuda` is the GPU of this process, `auto` too if it has one.

    Raises ParamsError where the name means nothing here.
    """
    import torch

    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name == "auto":
        name = own if torch.cuda.is_available() else "cpu"
    elif name == "cuda":
        name = own
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"device: expected auto, cpu, cuda or cuda:N, found {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ParamsError(f"device: expected a device of this machine, found {name!r}, and no GPU is here")
    return device


def torch_generator(seed: int) -> "torch.Generator":
    """Return a generator of random numbers for the CPU that starts from the parameter `seed`."""
    import torch

    return torch.Generator().manual_seed(seed)


def accelerator_on(device: str, *, precision: str) -> "Accelerator":
    """Return the `accelerate` view of this process and its siblings under `torchrun`.

    device is the parameter of that name. precision is fp32, bf16, or auto: bf16 on a GPU that computes in it.
    """
    from accelerate import Accelerator

    chosen = torch_device(device)
    if chosen.type == "cuda":
        import torch

        torch.cuda.set_device(chosen)
        if precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
            precision = "bf16"
    return Accelerator(cpu=chosen.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def progress(elements: Iterable[Element], *, title: str, total: int | None = None) -> Iterator[Element]:
    """Yield elements while a bar at a terminal, or a line each tenth of the way elsewhere, tells how far it is."""
    total = total if total is not None else _length(elements)
    if not is_main_process():
        yield from elements
    elif console.is_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(elements, total=total, description=title)
    else:
        yield from _told_in_lines(elements, title=title, total=total)


def _told_in_lines(elements: Iterable[Element], *, title: str, total: int | None) -> Iterator[Element]:
    told = 0
    for done, element in enumerate(elements, start=1):
        yield element
        if total and done * 10 // total > told:
            told = done * 10 // total
            log.info("%s: %d of %d", title, done, total)


def _length(elements: Iterable[Element]) -> int | None:
    try:
        return len(elements)  # type: ignore[arg-type]
    except TypeError:
        return None
