"""The benchmark runs, and its figures are where they are looked for."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cluster.py"


def test_it_runs_at_a_tiny_size(tmp_path):
    sizes = ["--work", "300x40x8x2", "--work", "400x160x10x1"]
    subprocess.run([sys.executable, SCRIPT, *sizes, "--json", tmp_path / "cluster.json"], check=True)
    found = json.loads((tmp_path / "cluster.json").read_text())
    assert found.keys() == {
        *("benchmark", "unit", "peer", "ours", "ratio", "limit", "limit_fraction", "cases", "growth", "machine")
    }
    names = [case["name"] for case in found["cases"]]
    assert names == ["300 x 40, K = 8, starts: 2", "400 x 160, K = 10, starts: 1"]
    assert found["growth"][0]["work"] == [50, 100, 200, 400]
