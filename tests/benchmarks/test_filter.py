from tests.benchmarks.scripts import figures_of


def test_both_filter_alike_and_the_figures_are_written(tmp_path):
    options = ("--lines", "20000", "--runs", "1", "--growth", "--folder", str(tmp_path))
    figures = figures_of("filter", *options, folder=tmp_path)
    assert figures["cases"][0]["facts"]["interactions of the 5-core"] > 1000
    assert [growth["work"] for growth in figures["growth"]] == [[2000, 4000, 10000, 20000]]
