import datetime
import json
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tessera.errors import SourceError
from tessera.items import folder
from tessera.items.folder import read_folder, read_interaction_file, read_interactions, read_item_file, read_items

ROWS = {"user": ["ann", "bob"], "item": [1, 2], "timestamp": [964982703, 964981247], "rating": [4.0, 3.5]}
ITEMS = '{"item": 1, "title": "Drum", "image": "images/1.jpg"}\n{"item": 2, "title": "Horn", "categories": ["Brass"]}\n'


def write(folder: Path, name: str, table: pl.DataFrame) -> Path:
    path = folder / name
    {".csv": table.write_csv, ".parquet": table.write_parquet, ".jsonl": table.write_ndjson}[path.suffix](path)
    return folder


def interactions(folder: Path, name: str = "interactions.csv", **columns: Any) -> pl.DataFrame:
    return read_interactions(write(folder, name, pl.DataFrame(ROWS | columns)), max_malformed=0)[0]


FILES = pytest.mark.parametrize("name", ["interactions.csv", "interactions.parquet", "interactions.jsonl"])


@FILES
def test_interactions_of_each_kind_of_file(name: str, tmp_path: Path):
    assert interactions(tmp_path, name).drop("row").rows() == [
        ("ann", "1", 964982703000, 4.0),
        ("bob", "2", 964981247000, 3.5),
    ]


@FILES
def test_a_rating_is_not_needed(name: str, tmp_path: Path):
    write(tmp_path, name, pl.DataFrame(ROWS).drop("rating"))
    assert read_interactions(tmp_path, max_malformed=0)[0]["rating"].to_list() == [None, None]


@FILES
@pytest.mark.parametrize("column", ["user", "item", "timestamp"])
def test_a_missing_column_is_named(name: str, column: str, tmp_path: Path):
    write(tmp_path, name, pl.DataFrame(ROWS).drop(column).with_columns(extra=1))
    found = f"{name}: expected the columns user, item, timestamp, found .*extra.*: {column} is missing"
    with pytest.raises(SourceError, match=found):
        read_interactions(tmp_path, max_malformed=1)


@FILES
@pytest.mark.parametrize(
    "timestamp",
    [
        pytest.param([1577836800, 1577840400], id="seconds"),
        pytest.param([1577836800000, 1577840400000], id="milliseconds"),
        pytest.param(["2020-01-01", "2020-01-01T01:00:00"], id="ISO"),
        pytest.param(["2020-01-01T01:00:00+01:00", "2020-01-01 01:00:00Z"], id="ISO with offsets"),
        pytest.param(["2020-01-01T00:00Z", "2020-01-01T02:00+01:00"], id="ISO with offsets and no seconds"),
        pytest.param([1577836800.0, 1577840400.0], id="floats"),
    ],
)
def test_times_in_every_form(name: str, timestamp: list[Any], tmp_path: Path):
    assert interactions(tmp_path, name, timestamp=timestamp)["time"].to_list() == [1577836800000, 1577840400000]


@pytest.mark.parametrize(
    ("timestamp", "milliseconds"),
    [
        (pl.Series([datetime.date(1960, 1, 2), datetime.date(1970, 1, 2)]), [None, 86_400_000]),
        (pl.Series([datetime.datetime(1970, 1, 2)]), [86_400_000]),
        (pl.Series([datetime.datetime(1970, 1, 2)]).dt.replace_time_zone("Europe/Berlin"), [82_800_000]),
        (pl.Series([datetime.datetime(1970, 1, 2)]).cast(pl.Datetime("ns")), [86_400_000]),
    ],
)
def test_dates_in_parquet(timestamp: pl.Series, milliseconds: list[int | None], tmp_path: Path):
    rows = len(timestamp)
    table = pl.DataFrame({"user": ["ann"] * rows, "item": ["1"] * rows, "timestamp": timestamp})
    reviews, tally = read_interactions(write(tmp_path, "interactions.parquet", table), max_malformed=1)
    assert reviews["time"].to_list() == [time for time in milliseconds if time is not None]
    assert tally.malformed["bad_time"] == milliseconds.count(None)


@pytest.mark.parametrize(
    ("user", "key"),
    [
        (pl.Series([7, 8]), "7"),
        (pl.Series([7.0, None]), "7"),
        (pl.Series([7.5, 8]), "7.5"),
        (pl.Series([Decimal("7.00"), Decimal("8.50")]), "7"),
        (pl.Series([Decimal("7.50"), Decimal("8.50")]), "7.50"),
        (pl.Series([Decimal(700), Decimal(8)]), "700"),
        (pl.Series(["007", "8"]), "007"),
        (pl.Series(["7", "8"], dtype=pl.Categorical), "7"),
        (pl.Series([2**53 + 1, 8]), "9007199254740993"),
    ],
)
def test_keys_are_the_decimal_text_of_numbers(user: pl.Series, key: str, tmp_path: Path):
    table = pl.DataFrame({"user": user, "item": [1, 2], "timestamp": [5, 6]})
    reviews, _ = read_interactions(write(tmp_path, "interactions.parquet", table), max_malformed=0.5)
    assert reviews["user_key"][0] == key


def test_rows_of_csv_that_are_no_interactions(tmp_path: Path):
    rows = ["user,item,timestamp,rating", "ann,1,5,4", ",1,5,4", "bob,2", "cat,3,soon,4", "dan,4,5,4,extra", "eve,é,5,"]
    (tmp_path / "interactions.csv").write_bytes("\n".join(rows).encode("latin-1"))
    reviews, tally = read_interactions(tmp_path, max_malformed=0.9)
    assert reviews["user_key"].to_list() == ["ann"]
    assert reviews["row"].to_list() == [1]
    assert tally.malformed == {"missing_user": 1, "no_record": 2, "bad_time": 1, "bad_item": 1}
    with pytest.raises(SourceError, match=r"interactions.csv: .* found 5 of 6 lines; most often .*, first in line 4"):
        read_interactions(tmp_path, max_malformed=0.6)


def test_lines_that_a_stray_quote_swallows_are_counted(tmp_path: Path):
    rows = [f"user{row},{row % 7},{row}" for row in range(1, 101)]
    rows[9], rows[59] = 'user10,"3,10', 'user60,4",60'
    (tmp_path / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    reviews, tally = read_interactions(tmp_path, max_malformed=0.6)
    assert (tally.lines, tally.malformed) == (100, {"no_record": 51})
    assert reviews["user_key"].to_list() == [f"user{row}" for row in range(1, 101) if not 10 <= row <= 60]
    rows[59] = "user60,4,60"
    (tmp_path / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    with pytest.raises(SourceError, match=r"found 91 of 100 lines; most often no_record: 91, first in line 11"):
        read_interactions(tmp_path, max_malformed=0.6)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    ("row", "quoted", "lost"),
    [
        (9, '5,"great', 92),
        (9, '"5,great', 92),
        (99, '5,"great', 2),
        (9, '5,"two\nlines"', 0),
        (9, '5,"sizes:\nS,a,20,30,40\nM,b,22,32,42"', 0),
        (9, '5,"sizes:\n1 star off,too,1 loud,1,2\n"', 0),
        (9, '5,"sizes:\n,,1700000009,,"', 0),
    ],
)
def test_lines_that_another_cell_swallows_are_counted(row: int, quoted: str, lost: int, end: str, tmp_path: Path):
    rows = [f"user{row},{row % 7},{1_700_000_000 + row},5,good" for row in range(1, 101)]
    rows[row - 1] = f"user{row},2,1700000009,{quoted}"
    (tmp_path / "interactions.csv").write_text("\n".join(["user,item,timestamp,rating,comment", *rows]) + end)
    reviews, tally = read_interactions(tmp_path, max_malformed=0.95)
    assert tally.lines == 100
    assert tally.malformed.total() == lost
    assert reviews.height == 100 - lost
    if lost:
        with pytest.raises(SourceError, match=f"first in line {row + 1}"):
            read_interactions(tmp_path, max_malformed=0.01)


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ('"17 inch monitor', "row 3 with 7 of them"),
        ('"a monitor\nof 17 inches, as was usual, then"', None),
        ('"colours:\nred, green"', None),
        ('"a\nb"', None),
    ],
)
def test_titles_that_may_have_swallowed_rows_are_told_of(title: str, told: str | None, tmp_path: Path, caplog):
    rows = [f"B{row},Thing {row}" for row in range(1, 11)]
    rows[2] = f"B3,{title}"
    (tmp_path / "items.csv").write_text("\n".join(["item,title", *rows, ""]))
    read_items(tmp_path, reviewed=pl.Series(["B1", "B3"]), max_malformed=0.9)
    assert (told in caplog.text) if told else not caplog.text


def test_items_whose_cells_do_not_fit_the_header_are_counted(tmp_path: Path):
    lines = ["item,title,description", '1,"A, b",fine', "2,A, b,shifted", '"3', "4,x,y", '5",x,y', '6,"two\nlines",']
    (tmp_path / "items.csv").write_text("\n".join(lines))
    found = read_items(tmp_path, reviewed=pl.Series(list("123456")), max_malformed=0.9)
    assert found.table["key"].to_list() == ["1", "6"]
    assert found.counts["malformed"]["no_record"] == 4
    with pytest.raises(
        SourceError, match=r"items.csv: .* found 4 of 6 lines; most often no_record: 4, first in line 3"
    ):
        read_items(tmp_path, reviewed=pl.Series(["1"]), max_malformed=0.5)


def test_csv_of_more_bytes_than_its_reader_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "interactions.csv", pl.DataFrame(ROWS))
    monkeypatch.setattr(folder, "LARGEST_CSV", 20)
    with pytest.raises(
        SourceError, match=r"interactions.csv: expected at most 2 GiB as CSV, found [0-9]+ bytes; write"
    ):
        read_interactions(tmp_path, max_malformed=0.0)


def test_a_header_whose_quote_never_ends(tmp_path: Path):
    (tmp_path / "interactions.csv").write_text('"user,item,timestamp\n' + "u1,i1,5\n" * 30_000)
    with pytest.raises(SourceError, match=r"interactions.csv: expected CSV with a header: field larger than"):
        read_interactions(tmp_path, max_malformed=0.0)


def test_a_value_that_is_no_number_is_none_in_json_lines(tmp_path: Path):
    found = items(tmp_path, "items.jsonl", '{"item": 1, "title": NaN, "description": "told", "image": NaN}\n')
    assert found.rows() == [("1", "", "told", [], [])]


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(name: str, tmp_path: Path):
    write(tmp_path, name, pl.DataFrame({"item": ["1", "2"], "title": ["Drum", "Horn"]}))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    found = read_items(tmp_path, reviewed=pl.Series(["1", "2"]), max_malformed=0.0)
    assert found.table["title"].to_list() == ["Drum", "Horn"]


def test_items_of_parquet_with_keys_of_any_kind(tmp_path: Path):
    keys = pl.Series("item", [Decimal("1"), Decimal("2")])
    titles = pl.Series("title", [date(2020, 1, 2), None])
    write(tmp_path, "items.parquet", pl.DataFrame([keys, titles, pl.Series("categories", [["a"], ["b", "c"]])]))
    found = read_items(tmp_path, reviewed=pl.Series(["1", "2"]), max_malformed=0.0).table
    assert found["title"].to_list() == ["2020-01-02 00:00:00.000", ""]
    assert found["categories"].to_list() == [["a"], ["b", "c"]]


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (pl.Series("timestamp", [time(1)]), r"timestamp: expected text, numbers or dates, found Time"),
        (pl.Series("user", [["a"]]), r"user: expected text, numbers or dates, found List"),
    ],
)
def test_columns_that_are_no_text_are_named(column: pl.Series, named: str, tmp_path: Path):
    rows = pl.DataFrame({"user": ["a"], "item": ["b"], "timestamp": [1]}).with_columns(column)
    write(tmp_path, "interactions.parquet", rows)
    with pytest.raises(SourceError, match=named):
        read_interactions(tmp_path, max_malformed=0.0)


def test_columns_that_nobody_asked_for_are_passed_over(tmp_path: Path):
    others = [
        pl.Series("tags", [["a"]]),
        pl.Series("dwell", [timedelta(1)]),
        pl.Series("at", [time(1)]),
        pl.Series("session", [b"\xff"]),
        pl.Series("device", [{"os": "x"}]),
    ]
    interactions = pl.DataFrame({"user": ["a"], "item": ["b"], "timestamp": [1]})
    write(tmp_path, "interactions.parquet", interactions.with_columns(others))
    assert read_interactions(tmp_path, max_malformed=0.0)[0]["user_key"].to_list() == ["a"]
    described = pl.DataFrame({"item": ["b"], "title": ["Drum"]}).with_columns(others)
    lists = [pl.Series("image", [[b"\xff"]]), pl.Series("categories", [[date(2020, 1, 2)]])]
    write(tmp_path, "items.parquet", described.with_columns(lists))
    found = read_items(tmp_path, reviewed=pl.Series(["b"]), max_malformed=0.0).table
    assert found.select("key", "title", "categories").rows() == [("b", "Drum", ["2020-01-02"])]


def test_items_of_other_keys_are_told(tmp_path: Path, caplog):
    """As a spreadsheet leaves them: without the zeros that they began with."""
    write(tmp_path, "interactions.csv", pl.DataFrame(ROWS | {"item": [f"00{item}" for item in ROWS["item"]]}))
    keys = list(map(str, ROWS["item"]))
    for known, told in ((keys, None), ([*keys[1:], f"00{keys[0]}"], f"items file has 1 of {len(keys)} items")):
        write(tmp_path, "items.csv", pl.DataFrame({"item": known, "title": "x"}))
        if told is None:
            none = rf"such as '00.*', found none of these {len(keys)} items in it, but such as '{keys[0]}'"
            with pytest.raises(SourceError, match=none):
                read_folder(tmp_path, max_malformed=0)
        else:
            read_folder(tmp_path, max_malformed=0)
            assert told in caplog.text


@pytest.mark.parametrize("between", ["", "\n"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_in_the_place_of_lines_is_named(indent: int | None, between: str, tmp_path: Path):
    path = tmp_path / "interactions.jsonl"
    record = json.dumps({"user": "ann", "item": "x", "title": "X", "timestamp": 5}, indent=indent)
    path.write_text(f"[{between}{record},{between}{record}{between}]")
    with pytest.raises(SourceError, match=f"^{path}: expected one JSON object a line, found a JSON array; `jq"):
        read_interaction_file(path, max_malformed=0)
    path = path.rename(tmp_path / "items.jsonl")
    with pytest.raises(SourceError, match=f"^{path}: expected one JSON object a line, found a JSON array; `jq"):
        read_item_file(path, reviewed=None, max_malformed=0)


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(SourceError, match="expected a folder, found nothing"):
        read_folder(tmp_path / "none", max_malformed=0)
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="expected a folder, found a file"):
        read_folder(tmp_path / "file", max_malformed=0)
    with pytest.raises(SourceError, match=r"one of interactions.csv, interactions.parquet, .*, found none"):
        read_folder(tmp_path, max_malformed=0)
    write(tmp_path, "interactions.csv", pl.DataFrame(ROWS))
    write(tmp_path, "interactions.parquet", pl.DataFrame(ROWS))
    with pytest.raises(SourceError, match=r"found interactions.csv, interactions.parquet"):
        read_folder(tmp_path, max_malformed=0)


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.jsonl", "interactions.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01nonsense\xff"])
def test_files_that_are_not_what_they_are_called(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name):
        read_interactions(tmp_path, max_malformed=0.5)


def test_interactions_without_a_row(tmp_path: Path):
    write(tmp_path, "interactions.csv", pl.DataFrame(ROWS).clear())
    with pytest.raises(SourceError, match="found an empty file"):
        read_interactions(tmp_path, max_malformed=1)


def items(folder: Path, name: str, content: str | pl.DataFrame, *, max_malformed: float = 0) -> pl.DataFrame:
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        write(folder, name, content)
    return read_items(folder, reviewed=pl.Series(["1", "2"]), max_malformed=max_malformed).table


def test_items_of_json_lines(tmp_path: Path):
    assert items(tmp_path, "items.jsonl", ITEMS + '{"item": 3, "title": "Not reviewed"}\n').rows() == [
        ("1", "Drum", "", [], ["images/1.jpg"]),
        ("2", "Horn", "", ["Brass"], []),
    ]


def test_items_of_csv(tmp_path: Path):
    first, second = "1,Drum,,a|b,1.jpg", '2,Horn,"Loud, new","[""c|d""]","[""x.jpg"",""y""]"'
    cells = "\n".join(["item,title,description,categories,image", first, second])
    assert items(tmp_path, "items.csv", cells).rows() == [
        ("1", "Drum", "", ["a", "b"], ["1.jpg"]),
        ("2", "Horn", "Loud, new", ["c|d"], ["x.jpg", "y"]),
    ]


@pytest.mark.parametrize(
    ("categories", "found"),
    [
        ("[Sale] Shoes|Outdoor", ["[Sale] Shoes", "Outdoor"]),
        ("['Home', 'mug|cup']", ["Home", "mug|cup"]),
        ("[Home|mug]", ["[Home", "mug]"]),
    ],
)
def test_a_text_that_begins_like_a_list(categories: str, found: list[str], tmp_path: Path):
    table = pl.DataFrame({"item": ["1"], "title": ["Drum"], "categories": [categories], "image": ["['a b.jpg']"]})
    assert items(tmp_path, "items.csv", table).rows() == [("1", "Drum", "", found, ["a b.jpg"])]


def test_objects_are_passed_over_and_told(tmp_path: Path, caplog):
    row = {"item": "1", "title": {"en": "Drum"}, "categories": ["a", {"b": 1}], "image": [{"url": "1.jpg"}]}
    rows = [row, {"item": "2", "title": "Horn", "description": None, "image": {"bytes": "x"}}]
    assert items(tmp_path, "items.jsonl", "".join(f"{json.dumps(each)}\n" for each in rows)).rows() == [
        ("1", "", "", ["a"], []),
        ("2", "Horn", "", [], []),
    ]
    for name, count in (("title", 1), ("categories", 1), ("image", 2)):
        told = f"items.jsonl: {name}: expected texts or lists of them, found objects in {count} items, such as 1"
        assert told in caplog.text


def test_objects_in_a_list_of_csv_are_told(tmp_path: Path, caplog):
    table = pl.DataFrame({"item": ["1"], "title": ["Drum"], "image": ['[{"url": "1.jpg"}]']})
    assert items(tmp_path, "items.csv", table).rows() == [("1", "Drum", "", [], [])]
    assert "items.csv: image: expected texts or lists of them, found objects in 1 items, such as 1" in caplog.text


def test_items_of_parquet(tmp_path: Path):
    table = pl.DataFrame({"item": [1.0, 2.0], "title": ["Drum", None], "image": [["a", "b"], []], "other": [1, 2]})
    assert items(tmp_path, "items.parquet", table).rows() == [
        ("1", "Drum", "", [], ["a", "b"]),
        ("2", "", "", [], []),
    ]


@pytest.mark.parametrize("name", ["items.csv", "items.parquet", "items.jsonl"])
@pytest.mark.parametrize("column", ["item", "title"])
def test_a_missing_column_of_items_is_named(name: str, column: str, tmp_path: Path):
    table = pl.DataFrame({"item": [1], "title": ["Drum"], "extra": ["x"]}).drop(column)
    with pytest.raises(
        SourceError, match=f"{name}: expected the columns item, title, found .*extra.*: {column} is missing"
    ):
        items(tmp_path, name, table, max_malformed=1)


def test_malformed_items_are_counted(tmp_path: Path):
    with pytest.raises(
        SourceError, match=r"items.jsonl: .* found 1 of 3 lines; most often no_record: 1, first in line 3"
    ):
        items(tmp_path, "items.jsonl", ITEMS + "oops\n", max_malformed=0.3)


def test_movielens_small(shared_data: Callable[[str], Path]):
    content = read_folder(shared_data("movielens_small"), max_malformed=0)
    reviews = content.reviews
    assert (reviews.height, reviews["user_key"].n_unique(), reviews["item_key"].n_unique()) == (90274, 610, 3650)
    assert reviews["time"].is_between(820_000_000_000, 1_600_000_000_000).all()
    assert (content.items.height, content.counts["items"]["with_pictures"]) == (3650, 3548)
    toy_story = content.items.row(by_predicate=pl.col("key") == "1", named=True)
    assert toy_story["title"] == "Toy Story (1995)"
    assert toy_story["pictures"] == ["images/1.jpg"]
