import polars as pl
import pytest

from tessera.errors import SourceError
from tessera.items import raw_items
from tessera.items.raw_items import RawItem, bare_items, gather, item_table, text_of, texts_of


def describe(key, record):
    return RawItem(key, text_of(record.get("title")), "", [], [])


def gathered(*records, reviewed=("a", "b"), max_malformed=1.0):
    return gather(
        enumerate(records),
        key_field="id",
        describe=describe,
        reviewed=set(reviewed),
        source="x.gz",
        max_malformed=max_malformed,
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("a", "a"),
        (["a", "", None, "b"], "a\nb"),
        ([], ""),
        ([["a"], "b"], "a\nb"),
        (12, "12"),
        (1.0, "1"),
        ({"a": 1}, ""),
        ("\ud83d", "\ufffd" * 3),
    ],
)
def test_text_of_anything(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "texts"),
    [(None, []), ("a", ["a"]), ("", []), ([["a", "b"], ["a", "c"]], ["a", "b", "c"]), ([None, 3, {"x": 1}], ["3"])],
)
def test_texts_of_anything(value, texts):
    assert texts_of(value) == texts


def test_lists_may_be_deep():
    value = "inside"
    for _ in range(5_000):
        value = [value]
    assert text_of(value) == "inside"
    assert texts_of([value, "beside", value]) == ["inside", "beside"]


def test_gathers_reviewed_items_once_and_sorted_and_counts_the_rest():
    found = gathered(
        {"id": "b", "title": "first"},
        {"id": "z"},
        None,
        {"id": "b", "title": "second"},
        {"id": ""},
        {"id": "a\0"},
        {"id": "a"},
    )
    assert found.table.select("key", "title").rows() == [("a", ""), ("b", "first")]
    assert found.counts == {
        "lines": 7,
        "kept": 2,
        "repeated": 1,
        "not_reviewed": 1,
        "malformed": {"no_record": 1, "missing_item": 1, "bad_item": 1},
    }


def test_batches_make_no_difference(monkeypatch):
    records = [{"id": str(number % 7), "title": str(number)} for number in range(20)]
    whole = gathered(*records, reviewed=list("0123456"))
    monkeypatch.setattr(raw_items, "BATCH", 3)
    assert gathered(*records, reviewed=list("0123456")).table.equals(whole.table)


def test_too_many_malformed_lines_are_an_error():
    with pytest.raises(SourceError, match=r"x.gz: .* found 1 of 2 lines; most often no_record: 1, first in line 2"):
        gathered({"id": "a"}, None, max_malformed=0.49)
    with pytest.raises(SourceError, match="empty file"):
        gathered()


def test_bare_items_are_known_by_their_key_only():
    found = bare_items(pl.Series(["b", "a", "b"]))
    assert found.table.equals(item_table([RawItem("a", "", "", [], []), RawItem("b", "", "", [], [])]))
    assert found.counts.keys() == gathered({"id": "a"}).counts.keys()
