"""The benchmark runs, and its figures are where they are looked for."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantize.py"


def test_it_runs_at_a_tiny_size(tmp_path):
    sizes = ["--work", "60x8x6", "--batch", "30", "--runs", "1"]
    subprocess.run([sys.executable, SCRIPT, *sizes, "--json", tmp_path / "quantize.json"], check=True)
    found = json.loads((tmp_path / "quantize.json").read_text())
    assert found.keys() == {
        *("benchmark", "unit", "peer", "ours", "ratio", "limit", "limit_fraction", "cases", "growth", "machine")
    }
    assert [case["name"] for case in found["cases"]] == ["60 items, 8 + 6, batch 30"]
    assert {"GiB at most, 15 items", "GiB at most, 60 items"} <= found["cases"][0]["facts"].keys()
    assert found["growth"][0]["work"] == [15, 30, 60]
