"""Run a script of benchmarks/ at a small size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEYS = {"benchmark", "unit", "peer", "ours", "ratio", "limit", "limit_fraction", "cases", "growth", "machine"}


def figures_of(name: str, *options: str, folder: Path) -> dict[str, Any]:
    """Return what the script of that name writes as JSON with options, its keys and rates checked."""
    file = folder / f"{name}.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert set(figures) == KEYS
    assert figures["benchmark"] == name
    for case in figures["cases"]:
        assert min(case["peer"], case["ours"], case["limit"]) > 0
    return figures
