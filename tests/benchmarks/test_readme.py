"""The README shows what benchmarks/results holds, and nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "readme.py"
BEGIN, END = "<!-- benchmarks: written by benchmarks/readme.py -->", "<!-- end of benchmarks -->"


def written(results: Path, page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    readme, picture = folder / "README.md", folder / "growth.svg"
    readme.write_text(page)
    command = [sys.executable, SCRIPT, "--results", results, "--readme", readme, "--picture", picture]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_table_and_picture_are_up_to_date(tmp_path):
    page = (ROOT / "README.md").read_text()
    assert written(ROOT / "benchmarks" / "results", page, tmp_path).returncode == 0
    assert (tmp_path / "README.md").read_text() == page
    assert (tmp_path / "growth.svg").read_text() == (ROOT / "docs" / "growth.svg").read_text()


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    rates = {"peer": 2.0, "ours": 30.0, "ratio": 15.0, "limit": 60.0, "limit_fraction": 0.5}
    case = {"name": "some work", "unit": "items/s", **rates, "facts": {}}
    for source in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        growth = [{"name": f"{source.stem} & more", "unit": "items", "work": [10, 1000], "seconds": [0.1, 1.0]}]
        machine = {"processor": "A processor", "cores": 2, "memory_gib": 24}
        machine |= {"gpu": "A GPU"} if source.stem.endswith("_gpu") else {}
        document = {
            "benchmark": re.sub("_(gpu|taught)$", "", source.stem),
            "cases": [case],
            "growth": growth,
            "machine": machine,
        }
        (folder / source.name).write_text(json.dumps(document))
    return folder


def test_a_line_a_case_stands_between_the_marks(results, tmp_path):
    done = written(results, f"before\n{BEGIN}\nold\n{END}\nafter\n", tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| [rank](benchmarks/rank.py) | some work | items/s | 2 | 30 | 15 | 50% |" in page
    assert "\n- A processor, 2 cores, 24 GiB: filter, cluster, quantize, collisions, corpus, train, rank, serve" in page
    assert "\n- A processor, 2 cores, 24 GiB, A GPU: train, rank\n" in page
    for script in re.findall(r"\]\((benchmarks/.*?)\)", page):
        assert (ROOT / script).is_file()
    picture = (tmp_path / "growth.svg").read_text()
    assert picture.count('class="point"') == 2 * len(list(results.glob("*.json")))
    assert "rank &amp; more" in picture


def test_a_page_without_marks_is_left_alone(results, tmp_path):
    done = written(results, "no marks\n", tmp_path)
    assert done.returncode != 0
    assert "expected <!-- benchmarks" in done.stderr
    assert (tmp_path / "README.md").read_text() == "no marks\n"
