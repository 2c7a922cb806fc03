import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from tessera.items.reviews import LATEST, PROBLEMS, reviews_of, times_in_milliseconds


def fields(**texts: str | None) -> pl.DataFrame:
    row = {"user": "ann", "item": "B1", "time": "5", "rating": "4.0", "problem": None} | texts
    return pl.DataFrame(
        {name: [text] for name, text in row.items()}, schema=dict.fromkeys(row, pl.String)
    ).with_row_index("row")


def test_a_review():
    table = reviews_of(fields(), unit="s")
    assert table.rows(named=True) == [
        {"user_key": "ann", "item_key": "B1", "time": 5000, "rating": 4.0, "row": 0, "problem": None}
    ]
    assert table.schema["row"] == pl.UInt64
    assert table.schema["rating"] == pl.Float32


@pytest.mark.parametrize(
    ("text", "unit", "milliseconds"),
    [
        ("1529193600", "s", 1529193600000),
        ("1529193600", "ms", 1529193600),
        ("1588687728923", "ms", 1588687728923),
        ("1529193600.25", "s", 1529193600250),
        ("1.5e9", "s", 1500000000000),
        ("0", "s", 0),
    ],
)
def test_times(text, unit, milliseconds):
    assert reviews_of(fields(time=text), unit=unit)["time"].to_list() == [milliseconds]


@pytest.mark.parametrize("rating", [4.0, 0.1, None, float("inf"), 1e300])
@pytest.mark.parametrize("time", [0, 1529193600, None, -1, LATEST, 9 * 10**18])
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_numbers_are_what_their_texts_are(time, rating, unit):
    texts = fields(time=None if time is None else str(time), rating=None if rating is None else str(rating))
    numbers = texts.with_columns(time=pl.lit(time, pl.Int64), rating=pl.lit(rating, pl.Float64))
    assert_frame_equal(reviews_of(numbers, unit=unit), reviews_of(texts, unit=unit), check_exact=True)


def test_a_rating_may_be_missing():
    table = reviews_of(pl.concat([fields(rating=None), fields(rating="")]), unit="s")
    assert table["rating"].to_list() == [None, None]
    assert table["problem"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"problem": "no_record", "user": None}, "no_record"),
        ({"user": None}, "missing_user"),
        ({"user": ""}, "missing_user"),
        ({"user": "a\0"}, "bad_user"),
        ({"user": "a\ufffd"}, "bad_user"),
        ({"item": None}, "missing_item"),
        ({"item": "B\n1"}, "bad_item"),
        ({"user": None, "item": None}, "missing_user"),
        ({"time": None}, "missing_time"),
        ({"time": "soon"}, "bad_time"),
        ({"time": "-1"}, "bad_time"),
        ({"time": str(LATEST)}, "bad_time"),
        ({"time": "9" * 18}, "bad_time"),
        ({"time": "9" * 40}, "bad_time"),
        ({"time": "nan"}, "bad_time"),
        ({"time": "inf"}, "bad_time"),
        ({"rating": "good"}, "bad_rating"),
        ({"rating": "nan"}, "bad_rating"),
    ],
)
@pytest.mark.parametrize("unit", ["s", "ms"])
def test_what_is_no_review(texts, problem, unit):
    assert reviews_of(fields(**texts), unit=unit)["problem"].to_list() == [problem]
    assert problem in PROBLEMS


@pytest.mark.parametrize(
    ("texts", "milliseconds"),
    [
        (["964982703", "964981247"], ["964982703000", "964981247000"]),
        (["964982703123", "964982703124", "7"], ["964982703123", "964982703124", "7"]),
        (["964982703.5", "1"], ["964982703500", "1000"]),
        (["2020-01-01", None, "soon"], ["1577836800000", None, "soon"]),
        (["2020-01-01T01:00:00+01:00", "2020-01-01T00:00:00Z"], ["1577836800000"] * 2),
        (
            ["2020-01-01 02:00:00+02", "2020-01-01T01:30:00.5-01", "2020-01-01 00:00 UTC"],
            ["1577836800000", "1577845800500", "1577836800000"],
        ),
        (["2020-01-01 05:30+05:30", "2020-01-01T02:00:00+0200"], ["1577836800000"] * 2),
        (
            ["2020-01-01 00:00", "2020-01-01 00:00:00", "2020-01-01T00:00:00.250"],
            [*["1577836800000"] * 2, "1577836800250"],
        ),
        (["5", "1970-01-01T01:00:00+01:00", "soon"], ["5000", "0", "soon"]),
        (["2020-13-01", ""], ["2020-13-01", ""]),
        ([None], [None]),
        ([], []),
    ],
)
def test_times_of_any_form(texts, milliseconds):
    found = times_in_milliseconds(pl.Series("time", texts, pl.String))
    assert_series_equal(found, pl.Series("time", milliseconds, pl.String))
