from tests.benchmarks.scripts import figures_of


def test_both_rules_give_the_same_codes_and_the_figures_are_written(tmp_path):
    figures = figures_of("collisions", "--items", "300", "100", "--most", "1000", "--full", folder=tmp_path)
    assert [case["name"] for case in figures["cases"]][-1] == "1,000 items, 5% colliding"
    assert [growth["work"] for growth in figures["growth"]] == [[10, 100, 1000]] * 2
