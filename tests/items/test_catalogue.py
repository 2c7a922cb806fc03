import polars as pl
import pytest

from tessera.errors import ParamsError
from tessera.items.catalogue import described, lacking, present_keys

ITEMS = {
    "key": pl.String,
    "title": pl.String,
    "description": pl.String,
    "categories": pl.List(pl.String),
    "pictures": pl.List(pl.String),
}


@pytest.fixture
def catalogue():
    items = pl.DataFrame(
        [
            ("c", None, "<p>Only a description</p>", None, []),
            ("a", "Straps &amp; picks", "", ["Guitars"], []),
            ("a", "A second row of a", "", [], []),
            ("b", "<br>", None, ["Nothing"], []),
            ("other", "Nobody asks", "", [], []),
        ],
        schema=ITEMS,
        orient="row",
    )
    statuses = pl.DataFrame({"key": ["a", "b", "d", "a"], "status": ["ok", "failed", "ok", "failed"]})
    return described(pl.Series(["a", "b", "c", "d"]), items=items, statuses=statuses)


def test_items_are_described_in_the_order_of_the_keys(catalogue):
    assert catalogue.rows() == [
        ("a", "Straps & picks", "", ["Guitars"], True, True),
        ("b", "", "", ["Nothing"], True, False),
        ("c", "", "Only a description", [], True, False),
        ("d", "", "", [], False, True),
    ]
    assert catalogue.columns == ["key", "title", "description", "categories", "has_metadata", "has_picture"]


def test_presence_is_a_text_after_cleaning_and_a_picture_that_is_ok(catalogue):
    present = present_keys(catalogue, ["image", "text"])
    assert {modality: keys.to_list() for modality, keys in present.items()} == {"image": ["a", "d"], "text": ["a", "c"]}
    assert present_keys(catalogue, []) == {}


def test_what_items_lack_is_counted(catalogue):
    assert lacking(catalogue) == {"metadata": 1, "text": 2, "image": 2}


def test_an_unknown_required_modality_is_refused(catalogue):
    expected = r"^filter.required: expected modalities of \['image', 'text'\], found 'sound'$"
    with pytest.raises(ParamsError, match=expected):
        present_keys(catalogue, ["image", "sound"])


def test_nothing_known_of_any_item():
    items, statuses = pl.DataFrame(schema=ITEMS), pl.DataFrame(schema={"key": pl.String, "status": pl.String})
    catalogue = described(pl.Series(["a"]), items=items, statuses=statuses)
    assert catalogue.rows() == [("a", "", "", [], False, False)]
