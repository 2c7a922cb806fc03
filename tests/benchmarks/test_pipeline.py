import pytest

from tests.benchmarks.scripts import figures_of


def test_the_first_stages_are_timed_and_import_no_torch(tmp_path):
    small = ["--set", "dataset.users=120", "--set", "dataset.items=60", "--set", "pseudo.clusters=6"]
    figures = figures_of("pipeline", "--until", "cluster_items", *small, folder=tmp_path)
    facts = figures["cases"][0]["facts"]
    assert {"download_reviews", "fetch_images", "filter_reviews", "embed_text", "embed_images"} <= set(facts)
    parts = ("own work", "imports", "starting and ending processes", "DVC")
    assert sum(facts[f"seconds of {part}"] for part in parts) == pytest.approx(facts["seconds"])
    assert figures["limit_fraction"] == pytest.approx(1 - facts["share outside the stages' own work"])
