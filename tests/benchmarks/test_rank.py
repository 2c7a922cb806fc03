"""The benchmark of ranking runs, at a size at which its figures mean nothing."""

import pytest

from tests.benchmarks.scripts import figures_of


def test_it_finds_the_items_of_generate_and_writes_its_figures(tmp_path):
    few = ("--users", "8", "--peer-users", "4", "--many-items", "3000", "--runs", "1", "--no-growth")
    found = figures_of("rank", *few, folder=tmp_path)
    assert [case["name"] for case in found["cases"]] == ["6,250 items", "3,000 items"]
    for case in found["cases"]:
        assert case["facts"]["largest difference of a score"] < 1e-4
        assert case["facts"]["share of the peer's lists that are the same"] == pytest.approx(1, abs=0.3)
