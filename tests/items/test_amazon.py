import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tessera.errors import SourceError
from tessera.items.amazon import full_size, parse_literal, read_amazon, read_items, read_reviews

OLD = {"reviewerID": "ann", "asin": "B1", "overall": 4.0, "unixReviewTime": 1529193600, "reviewText": "Fine"}
NEW = {
    "user_id": "ann",
    "parent_asin": "B1",
    "asin": "B1-red",
    "rating": 4.0,
    "timestamp": 1588687728923,
    "text": "Fine",
}
HOST = "https://images-na.ssl-images-amazon.com/images/I"


def lines(path: Path, *records: Any) -> Path:
    """Write records as JSON lines, and text as it is."""
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(texts) + "\n")
    return path


def item(path: Path, form: str, record: Any) -> dict[str, Any]:
    reviewed = pl.Series(["B1"])
    (found,) = read_items(lines(path, record), form=form, reviewed=reviewed, max_malformed=0).table.rows(named=True)
    return found


@pytest.mark.parametrize(
    ("form", "record", "time"),
    [
        ("amazon2014", OLD, 1529193600000),
        ("amazon2018", OLD, 1529193600000),
        ("amazon2023", NEW, 1588687728923),
        ("amazon2023", {"sort_timestamp" if name == "timestamp" else name: NEW[name] for name in NEW}, 1588687728923),
    ],
)
def test_a_review_of_each_vintage(form, record, time, tmp_path: Path):
    reviews, tally = read_reviews(lines(tmp_path / "x", record), form=form, max_malformed=0)
    assert reviews.rows() == [("ann", "B1", time, 4.0, 0)]
    assert tally.lines == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"reviewerID": None}, "missing_user"),
        ({"asin": ""}, "missing_item"),
        ({"unixReviewTime": None}, "missing_time"),
        ({"unixReviewTime": "05 3, 2011"}, "bad_time"),
        ({"unixReviewTime": -1}, "bad_time"),
        ({"overall": "five"}, "bad_rating"),
        ("{'reviewerID': 'ann'}", "no_record"),
        ("<!DOCTYPE html>", "no_record"),
    ],
)
def test_a_line_that_is_no_review_is_counted_and_keeps_its_place(change, problem, tmp_path: Path):
    bad = change if isinstance(change, str) else OLD | change
    path = lines(tmp_path / "x", OLD, bad, OLD)
    reviews, tally = read_reviews(path, form="amazon2018", max_malformed=0.34)
    assert reviews["row"].to_list() == [0, 2]
    assert tally.malformed == {problem: 1}
    with pytest.raises(SourceError, match=f"{path}: .*found 1 of 3 lines; most often {problem}: 1, first in line 2"):
        read_reviews(path, form="amazon2018", max_malformed=0.33)


def test_reviews_of_another_vintage_are_no_reviews(tmp_path: Path):
    with pytest.raises(SourceError, match="most often missing_user"):
        read_reviews(lines(tmp_path / "x", OLD), form="amazon2023", max_malformed=0.5)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_category_is_an_error(content: str, tmp_path: Path):
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(SourceError, match=f"{path}: expected at least one line, found an empty file"):
        read_reviews(path, form="amazon2018", max_malformed=1)
    with pytest.raises(SourceError, match="found none in 1 lines"):
        read_reviews(lines(path, "oops"), form="amazon2018", max_malformed=1)


META_2014 = (
    "{'asin': 'B1', 'title': \"Kid's \\d drum\", 'description': 'Loud \\xe9', 'price': 7.5, 'related': None, "
    "'imUrl': 'http://ecx.images-amazon.com/images/I/51L%2BzY._SX300_.jpg', "
    "'salesRank': {'Toys': 1}, 'categories': [['Toys', 'Drums'], ['Toys', 'Noise']]}"
)


def test_metadata_of_2014_are_python(tmp_path: Path):
    assert item(tmp_path / "x", "amazon2014", META_2014) == {
        "key": "B1",
        "title": "Kid's \\d drum",
        "description": "Loud é",
        "categories": ["Toys", "Drums", "Noise"],
        "pictures": [
            "http://ecx.images-amazon.com/images/I/51L%2BzY.jpg",
            "http://ecx.images-amazon.com/images/I/51L%2BzY._SX300_.jpg",
        ],
    }


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b"{'a': 'x\0y'}", {"a": "xy"}),
        (b'{"a": null, "b": true}', {"a": None, "b": True}),
        (b"{'a': '\xff'}", {"a": "\ufffd"}),
        (b"__import__('os').getcwd()", None),
        (b"{'a': open('/etc/passwd')}", None),
        (b"{'a'", None),
        (b"['a']", None),
        (b"{'a': " + b"[" * 5000 + b"]" * 5000 + b"}", None),
        (b"{{'a': 'B1'}}", None),
        (b"", None),
    ],
)
def test_literals_are_read_and_never_run(line, record):
    assert parse_literal(line) == record


def test_unreviewed_items_of_2014_are_skipped_unread(tmp_path: Path):
    broken = "{'asin': 'B2', 'title': "
    found = read_items(
        lines(tmp_path / "x", broken, META_2014), form="amazon2014", reviewed=pl.Series(["B1"]), max_malformed=0
    )
    assert found.table["key"].to_list() == ["B1"]
    assert found.counts["not_reviewed"] == 1


@pytest.mark.parametrize(
    ("fields", "pictures"),
    [
        (
            {"imageURLHighRes": [f"{HOST}/a.jpg", f"{HOST}/b.jpg"], "imageURL": [f"{HOST}/a._SS40_.jpg"]},
            ["a.jpg", "b.jpg"],
        ),
        ({"imageURL": [f"{HOST}/a._SR38,50_.jpg", f"{HOST}/b._SX38_SY50_CR,0,0,38,50_.jpg"]}, ["a.jpg", "b.jpg"]),
        ({"image": [f"{HOST}/317ZQtCvFzL._SX38_SY50_CR,0,0,38,50_.jpg"]}, ["317ZQtCvFzL.jpg"]),
        ({"imageURLHighRes": [f"{HOST}/a.jpg"], "imageURL": [f"{HOST}/other._SS40_.jpg"]}, ["a.jpg", "other.jpg"]),
        ({"imageURLHighRes": []}, []),
        ({"imageURLHighRes": None, "image": "nothing"}, ["nothing"]),
        ({"image": ["https://images-na.ssl-images-amazon.com/images/G/01/x-site/icons/no-img-sm._CB1_.gif"]}, []),
        ({}, []),
    ],
)
def test_pictures_of_2018_in_each_of_its_revisions(fields, pictures, tmp_path: Path):
    found = item(tmp_path / "x", "amazon2018", {"asin": "B1"} | fields)["pictures"]
    assert [url.rpartition("/")[2] for url in found] == pictures


def test_texts_of_2018_stay_raw(tmp_path: Path):
    record = {
        "asin": "B1",
        "title": "Drum &amp; <b>sticks</b>",
        "description": ["Loud.", "", "Very\u0000."],
        "category": ["Toys", "Drums", "Toys"],
        "feature": ["unused"],
    }
    assert item(tmp_path / "x", "amazon2018", record) == {
        "key": "B1",
        "title": "Drum &amp; <b>sticks</b>",
        "description": "Loud.\nVery\0.",
        "categories": ["Toys", "Drums"],
        "pictures": [],
    }


@pytest.mark.parametrize(
    "record", [{"asin": "B1"}, {"asin": "B1", "title": None, "description": None, "category": None}]
)
def test_missing_fields_are_empty(record, tmp_path: Path):
    empty = {"key": "B1", "title": "", "description": "", "categories": [], "pictures": []}
    assert item(tmp_path / "x", "amazon2018", record) == empty


def test_metadata_of_2023(tmp_path: Path):
    record = {
        "parent_asin": "B1",
        "title": "Drum",
        "description": ["Loud."],
        "categories": ["Toys"],
        "main_category": "unused",
        "images": [
            {"variant": "PT01", "thumb": "t1", "large": "l1", "hi_res": "h1"},
            {"variant": "MAIN", "thumb": "t0", "large": "l0", "hi_res": None},
            "dirt",
        ],
    }
    assert item(tmp_path / "x", "amazon2023", record) == {
        "key": "B1",
        "title": "Drum",
        "description": "Loud.",
        "categories": ["Toys"],
        "pictures": ["l0", "h1", "l1"],
    }
    assert item(tmp_path / "x", "amazon2023", record | {"images": None})["pictures"] == []


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        (f"{HOST}/41fby%2BUjOJL._SX38_SY50_CR,0,0,38,50_.jpg", f"{HOST}/41fby%2BUjOJL.jpg"),
        (f"{HOST}/41fby%2BUjOJL.jpg", f"{HOST}/41fby%2BUjOJL.jpg"),
        ("http://h/a._x/b_.c.png", "http://h/a._x/b_.c.png"),
        ("", ""),
    ],
)
def test_the_whole_picture_of_a_rendering(url: str, whole: str):
    assert full_size(url) == whole


def test_malformed_metadata_are_counted(tmp_path: Path):
    path = lines(tmp_path / "x", {"asin": "B1"}, {"title": "whose?"}, "{", {"asin": "B9"})
    found = read_items(path, form="amazon2018", reviewed=pl.Series(["B1"]), max_malformed=0.5)
    assert found.counts["malformed"] == {"no_record": 1, "missing_item": 1, "bad_item": 0}
    with pytest.raises(SourceError, match=r"found 2 of 4 lines; most often missing_item: 1, first in line 2"):
        read_items(path, form="amazon2018", reviewed=pl.Series(["B1"]), max_malformed=0.49)


def test_without_metadata_every_reviewed_item_has_a_row(tmp_path: Path):
    content = read_amazon(lines(tmp_path / "x", OLD, OLD), None, form="amazon2018", max_malformed=0)
    assert content.items.rows() == [("B1", "", "", [], [])]
    assert content.counts["items"]["reviewed"] == 1


def test_gift_cards(shared_data: Callable[[str], Path]):
    folder = shared_data("gift_cards")
    files = folder / "Gift_Cards_5.json.gz", folder / "meta_Gift_Cards.json.gz"
    content = read_amazon(*files, form="amazon2018", max_malformed=0)
    reviews = content.reviews
    assert (reviews.height, reviews["user_key"].n_unique(), reviews["item_key"].n_unique()) == (2972, 458, 148)
    assert (content.items.height, content.counts["items"]["with_pictures"]) == (148, 116)
    assert content.counts["items"]["not_reviewed"] == 1547 - 148
    assert not content.items.filter(pl.col("pictures").list.eval(pl.element().str.contains(r"\._")).list.any()).height


def test_the_whole_catalogue_of_gift_cards(shared_data: Callable[[str], Path]):
    path = shared_data("gift_cards") / "meta_Gift_Cards.json.gz"
    with gzip.open(path) as file:
        keys = pl.Series([json.loads(line)["asin"] for line in file])
    found = read_items(path, form="amazon2018", reviewed=keys, max_malformed=0)
    assert found.table.filter(pl.col("pictures").list.len() > 0).height == 660
    assert found.counts | {"malformed": 0} == {
        "lines": 1547,
        "kept": 1547,
        "repeated": 0,
        "not_reviewed": 0,
        "malformed": 0,
    }


def test_instruments(shared_data: Callable[[str], Path]):
    path = shared_data("instruments") / "Musical_Instruments.json.gz"
    reviews, _ = read_reviews(path, form="amazon2018", max_malformed=0)
    assert (reviews.height, reviews["user_key"].n_unique(), reviews["item_key"].n_unique()) == (136226, 17112, 6250)
    assert reviews["time"].min() == 1400000000000
