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
from tessera.waiting import watched

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Element = TypeVar("Element")

#: Parameters of mallopt(3), which takes a C int.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1

#: The most bytes that a glibc before about 2.35 takes for it, of 64 bits.
LARGEST_MMAP_THRESHOLD = 32 * 2**20

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", envvar="TESSERA_VERBOSE", help="Tell of every file that is read or written.")
]

Record = Annotated[Path | None, typer.Option(help="To write: time, memory and versions of this run.")]

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
    if mallopt is None:
        return
    if mallopt(M_MMAP_THRESHOLD, LARGEST_INT) or mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD):
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)  # alone, it would fix the other one at its start, and so do harm


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
    """Return main, the function of a stage, as a command with the options that every stage has."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__)(_with_options(main))
    return app


def _with_options(main: Callable[..., None]) -> Callable[..., None]:
    """Return main with two more options: --verbose, and --record, what its run took, written once it has gone well."""

    @functools.wraps(main)
    def whole(*, verbose: bool, record: Path | None, **options: Any) -> None:
        tell_more(verbose=verbose)
        main(**options)
        leave_process_group()
        if record is not None and is_main_process():
            write_record(record)

    own = inspect.signature(main)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("record", None, Record), ("verbose", False, Verbose))
    ]
    whole.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return whole


def tell_more(*, verbose: bool) -> None:
    """Let the log tell what only who looks for a fault wants to know, if verbose; further processes stay still."""
    if verbose and is_main_process():
        log.setLevel(logging.DEBUG)


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def leave_process_group() -> None:
    """Take leave of the processes that `torchrun` started, if this is one of them.

    One that ends without may be torn from the others' connections, and abort after all its work is done.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


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

        # CUDA graphs of many shapes share memory that can grow; without, each leaves what is too small for the next.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        torch.cuda.set_device(chosen)
        if precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False):
            precision = "bf16"
    return Accelerator(cpu=chosen.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def progress(elements: Iterable[Element], *, title: str, total: int | None = None) -> Iterator[Element]:
    """Yield elements while a bar at a terminal, or a line now and then elsewhere, tells how far it is and how fast."""
    from tessera.bars import in_a_bar, in_lines  # here, since many a stage has nothing long to tell of

    total = total if total is not None else _length(elements)
    if not is_main_process():
        yield from elements
        return
    elements = watched(elements)
    if console.is_terminal:
        yield from in_a_bar(elements, title=title, total=total, console=console)
    else:
        yield from in_lines(elements, title=title, total=total)


def _length(elements: Iterable[Element]) -> int | None:
    try:
        return len(elements)  # type: ignore[arg-type]
    except TypeError:
        return None
