"""What a stage's run took and with what it ran: the one output that is another in each run.

A record is kept beside the outputs, so that DVC's cache brings it back with them: it tells of the run that made them.
No stage but write_report reads one.
"""

import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

from tessera.artifacts import write_json

#: Packages whose version can change a result, by the module that they are imported as.
PACKAGES: Final = {
    "accelerate": "accelerate",
    "altair": "altair",
    "implicit": "implicit",
    "numpy": "numpy",
    "open_clip": "open_clip_torch",
    "PIL": "pillow",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tessera": "tessera",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "vl_convert": "vl-convert-python",
}

#: ru_maxrss counts KiB on Linux and bytes on macOS.
_PEAK_UNIT: Final = 1 if sys.platform == "darwin" else 1024


def write_record(path: Path) -> None:
    """Write what this process took since it started, and the versions of what it imported, to path."""
    write_json(path, record_of_process())


def record_of_process() -> dict[str, Any]:
    """Return seconds, CPU seconds and peak memory in bytes of this process, its processes in all, machine and versions.

    Under several processes it is the first that is told of.
    """
    return {
        "seconds": round(time.time() - psutil.Process().create_time(), 3),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT,
        "gpu_peak_bytes": _gpu_peak(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), "gpu": _gpu(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    """Return the version of each of PACKAGES that is imported and installed."""
    found = {}
    for module, package in PACKAGES.items():
        if module in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:  # such as tessera itself on a path, not installed
                continue
    return found


def _gpu_peak() -> int | None:
    """Return the most bytes that tensors took on this process's GPU, or None where it used none."""
    torch = _torch_on_gpu()
    return int(torch.cuda.max_memory_allocated()) if torch else None


def _gpu() -> str | None:
    torch = _torch_on_gpu()
    return str(torch.cuda.get_device_name()) if torch else None


def _torch_on_gpu() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_initialized() else None


def _processor() -> str:
    """Return the name of the processor, as Linux tells it, or its architecture."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
