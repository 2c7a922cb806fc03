"""The benchmark runs, and its figures are where they are looked for."""

from tests.benchmarks.scripts import figures_of


def test_it_runs_at_a_tiny_size(tmp_path):
    sizes = ["--work", "300x40x8x2", "--work", "400x160x10x1"]
    found = figures_of("cluster", *sizes, folder=tmp_path)
    names = [case["name"] for case in found["cases"]]
    assert names == ["300 x 40, K = 8, starts: 2", "400 x 160, K = 10, starts: 1"]
    assert found["growth"][0]["work"] == [50, 100, 200, 400]
