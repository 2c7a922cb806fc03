"""The benchmark of training runs, at a size at which its figures mean nothing."""

from tests.benchmarks.scripts import figures_of


def test_it_compares_the_same_loss_and_writes_its_figures(tmp_path):
    found = figures_of("train", *("--batch-size", "8", "--steps", "1", "--runs", "1", "--no-growth"), folder=tmp_path)
    (case,) = found["cases"]
    assert case["unit"] == "samples/s"
    assert case["facts"]["relative difference of a batch's loss"] < 1e-5
