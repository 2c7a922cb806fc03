import pytest

from tessera.report.losses import counted, kept_of
from tests.finished_run import DOWNLOADED, FETCHED, FILTERED


def test_stage_by_stage():
    collisions = {"text": {"items_lent_a_path": 2}, "image": {"items_lent_a_path": 0}}
    kept = kept_of(download=DOWNLOADED, fetch=FETCHED, filtered=FILTERED, collisions=collisions)
    assert {each.stage: dict(each.left) for each in kept} == {
        "download_reviews": {"reviews": 1500, "items": 40},
        "fetch_images": {"pictures": 36},
        "filter_reviews": {"users": 30, "items": 40, "interactions": 210},
        "resolve_collisions": {},
    }
    assert [(loss.stage, loss.reason, loss.took) for each in kept for loss in each.losses] == [
        ("download_reviews", "not a record", {"lines of reviews": 3}),
        ("download_reviews", "repeated", {"items": 1}),
        ("fetch_images", "not found", {"pictures": 4}),
        ("filter_reviews", "an item that the user had before", {"interactions": 17}),
        ("filter_reviews", "fewer than k interactions", {"users": 4, "interactions": 1234}),
        (
            "resolve_collisions",
            "text: without a vector of their own: they take the codes of an item like them",
            {"items": 2},
        ),
    ]


def test_metrics_without_counts_tell_nothing():
    kept = kept_of(download={}, fetch={}, filtered={}, collisions={})
    assert not any(each.left or each.losses for each in kept)


@pytest.mark.parametrize(
    ("count", "unit", "told"),
    [(1, "users", "1 user"), (1, "lines of reviews", "1 line of reviews"), (2000, "items", "2,000 items")],
)
def test_counted(count, unit, told):
    assert counted(count, unit) == told
