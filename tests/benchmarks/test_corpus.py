from tests.benchmarks.scripts import figures_of


def test_both_ways_give_the_same_tokens_and_the_figures_are_written(tmp_path):
    figures = figures_of("corpus", "--users", "50", folder=tmp_path)
    (growth,) = figures["growth"]
    assert growth["work"] == [growth["work"][0] * factor for factor in (1, 2, 5, 10, 20)]
