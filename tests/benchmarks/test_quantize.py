"""The benchmark runs, and its figures are where they are looked for."""

from tests.benchmarks.scripts import figures_of


def test_it_runs_at_a_tiny_size(tmp_path):
    sizes = ["--work", "60x8x6", "--batch", "30", "--runs", "1"]
    found = figures_of("quantize", *sizes, folder=tmp_path)
    assert [case["name"] for case in found["cases"]] == ["60 items, 8 + 6, batch 30"]
    assert {"GiB at most, 15 items", "GiB at most, 60 items"} <= found["cases"][0]["facts"].keys()
    assert found["growth"][0]["work"] == [15, 30, 60]
