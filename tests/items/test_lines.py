import gzip
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.errors import SourceError
from tessera.items import lines
from tessera.items.lines import NO_NUMBERS, UNREADABLE, Numbers, Tally, as_text, parse_json, read_chunks, read_fields

FIELDS = {"user": ("u",), "time": ("t", "t2")}
GOOD = b'{"u": "ann", "t": 5}'


def frame_of(path: Path, *, numbers: Numbers = NO_NUMBERS) -> pl.DataFrame:
    frames = read_fields(path, FIELDS, numbers=numbers)
    return pl.concat(frame.with_columns(pl.col("time").cast(pl.String)) for frame in frames)


def written(path: Path, *content: bytes) -> Path:
    path.write_bytes(b"\n".join(content))
    return path


@pytest.mark.parametrize(
    ("line", "user", "time", "problem"),
    [
        (GOOD, "ann", "5", None),
        (b'{"u": "ann", "t": 5.0}', "ann", "5", None),
        (b'{"u": "ann", "t": "5"}', "ann", "5", None),
        (b'{"u": 12, "t2": 7}', "12", "7", None),
        (b'{"u": "ann", "t": 1, "t2": 2}', "ann", "1", None),
        (b'{"u": null, "style": {"u": "not mine"}}', None, None, None),
        (b'{"u": "ann", "t": 5, "text": "he said \\"u\\": \\"bob\\""}', "ann", "5", None),
        ('{"u": "åsa", "t": 5}'.encode(), "åsa", "5", None),
        (b'{"u": "ann", "t": 5} ', "ann", "5", None),
        (b'{"u": "ann", "t": 5}\r', "ann", "5", None),
        (b'{"u": "ann", "t": 5, "text": "nul \0 and tab \t"}', "ann", "5", None),
        (b'\0{"u": "ann", "t": 5}', "ann", "5", None),
        (b'{"u": "ann", "t": 5, "text": "half a pair \\ud83d"}', "ann", "5", None),
        (b'{"u": "ann", "t": 5, "text": "latin \xe9"}', "ann", "5", None),
        (b'{"u": "ann", "t": NaN}', "ann", None, None),
        (b'{"u": "ann", "t": 5', None, None, "no_record"),
        (b'{"u": "ann"} {"u": "bob"}', None, None, "no_record"),
        (b"<html>", None, None, "no_record"),
        (b"[1, 2]", None, None, "no_record"),
        (b"12", None, None, "no_record"),
        (b"{'u': 'ann'}", None, None, "no_record"),
        (b'{"u":' * 100_000, None, None, "no_record"),
        (b"", None, None, "blank"),
        (b"  \t", None, None, "blank"),
    ],
)
def test_every_kind_of_line_between_good_ones(line, user, time, problem, tmp_path: Path):
    frame = frame_of(written(tmp_path / "x", GOOD, line, GOOD))
    good = ("ann", "5", None)
    assert frame.select("user", "time", "problem").rows() == [good, (user, time, problem), good]
    assert frame["row"].to_list() == [0, 1, 2]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("last", [b"", GOOD])
def test_plain_or_packed_with_or_without_a_last_newline(packed: bool, last: bytes, tmp_path: Path):
    content = b"\n".join([GOOD, GOOD, last])
    path = tmp_path / "named.wrongly"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert frame_of(path).height == 2 + bool(last)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.text(max_size=8),
    st.floats(0.5, 1e6).map(lambda x: round(x, 3)),
)
RECORDS = st.dictionaries(st.sampled_from(["u", "t", "t2", "x"]), VALUES).map(
    lambda record: json.dumps(record).encode()
)
DIRT = st.sampled_from(
    [b"", b"{", b"oops", b'{"u": "a\0b"}', b'{"u": "\xff"}', b'{"u": "\\ud800"}', b'[{"u": 1}]', b" "]
)


def described_slowly(line: bytes) -> tuple[str | None, str | None, str | None]:
    """The twin: one line at a time, with nothing but the standard library."""
    if not line.strip():
        return None, None, "blank"
    try:
        record = json.loads(line.replace(b"\0", b"").decode(errors="replace"), strict=False)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return None, None, "no_record"
    times = [as_text(record.get(name)) for name in ("t", "t2")]
    return as_text(record.get("u")), next((time for time in times if time is not None), None), None


def readable(text: str | None) -> str | None:
    """What is refused as a name need not be the same on both ways: half a surrogate pair is not."""
    return "unreadable" if text and re.search(UNREADABLE, text) else text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(RECORDS, DIRT), min_size=1, max_size=30),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([NO_NUMBERS, {"time": pl.Int64}]),
)
def test_equals_one_line_at_a_time(
    tmp_path: Path, content: list[bytes], chunk: int, is_patient: bool, numbers: Numbers
):
    path = written(tmp_path / "x", *content, b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK", chunk)
        patch.setattr(lines, "SMALL_PIECE", 1 if is_patient else lines.SMALL_PIECE)
        frame = frame_of(path, numbers=numbers)
    found = [tuple(map(readable, row)) for row in frame.select("user", "time", "problem").iter_rows()]
    assert found == [tuple(map(readable, described_slowly(line))) for line in content]
    assert frame["row"].to_list() == list(range(len(content)))


@pytest.mark.parametrize(
    ("line", "type_of_frame"),
    [
        (b'{"u": "bob", "t": 7}', pl.Int64),
        (b'{"u": "bob"}', pl.Int64),
        (b'{"u": "bob", "t": 7.0}', pl.String),
        (b'{"u": "bob", "t": "7"}', pl.String),
        (b'{"u": "bob", "t": true}', pl.String),
        (b'{"u": "bob", "t": 99999999999999999999}', pl.String),
        (b"oops", pl.String),
    ],
)
def test_numbers_are_read_as_such_where_all_lines_have_them(line, type_of_frame, tmp_path: Path):
    path = written(tmp_path / "x", GOOD, line, b"")
    (frame,) = read_fields(path, FIELDS, numbers={"time": pl.Int64})
    assert frame.schema["time"] == type_of_frame
    assert frame_of(path, numbers={"time": pl.Int64}).equals(frame_of(path))


def test_one_bad_line_in_many_costs_a_few_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked_at = []
    monkeypatch.setattr(lines, "parse_json", lambda line: looked_at.append(line) or parse_json(line))
    path = written(tmp_path / "x", *[GOOD] * 50_000, b"oops", *[GOOD] * 50_000)
    assert frame_of(path)["problem"].null_count() == 100_000
    assert len(looked_at) < lines.SMALL_PIECE / len(GOOD)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=4), st.integers(0, 40), st.integers(1, 50))
def test_unpacks_as_gzip_does(tmp_path: Path, members: list[bytes], padding: int, chunk: int):
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(b"first") + b"".join(map(gzip.compress, members)) + bytes(padding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK", chunk)
        content = b"".join(read_chunks(path))
    assert content == gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("damage", ["cut", "cut in the sum", "garbled", "followed", "missing", "folder"])
def test_a_file_that_cannot_be_read_to_its_end(damage: str, tmp_path: Path):
    path = tmp_path / "x.gz"
    packed = gzip.compress(b"\n".join(b'{"u": "%d"}' % number for number in range(10_000)))
    match damage:
        case "cut":
            path.write_bytes(packed[: len(packed) // 2])
        case "cut in the sum":
            path.write_bytes(packed[:-3])
        case "followed":
            path.write_bytes(packed + b"garbage")
        case "garbled":
            path.write_bytes(packed[:100] + b"garbled" * 9 + packed[163:])
        case "folder":
            path.mkdir()
    with pytest.raises(SourceError, match=f"{path}: expected a file"):
        frame_of(path)


def test_a_file_without_lines_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 10)
    monkeypatch.setattr(lines, "CHUNK", 20)
    with pytest.raises(SourceError, match="one record a line, found a line over 10 bytes"):
        list(read_chunks(written(tmp_path / "x", b"x" * 100)))


def test_chunks_are_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "CHUNK", 7)
    content = b"\n".join(b"x" * size for size in range(12))
    chunks = list(read_chunks(written(tmp_path / "x", content)))
    assert b"".join(chunks) == content
    assert all(chunk.endswith(b"\n") for chunk in chunks[:-1])
    assert len(chunks) > 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("x", "x"),
        (12, "12"),
        (12.0, "12"),
        (1.5, "1.5"),
        (True, "true"),
        ([1], "[1]"),
        ("\ud83d", "\ufffd" * 3),
    ],
)
def test_values_as_text(value: Any, text: str | None):
    assert as_text(value) == text


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, 20_000_000_000_000_000_001, -(2**63) - 1])
def test_a_whole_number_keeps_all_its_digits_beside_any_line(number: int, tmp_path: Path):
    line = b'{"u": %d, "t": 5}' % number
    sound = frame_of(written(tmp_path / "sound.json", line, line))
    broken = frame_of(written(tmp_path / "broken.json", line, b"{", line))
    assert sound["user"].to_list() == [str(number)] * 2
    assert broken["user"].to_list() == [str(number), None, str(number)]
    assert (parse_json(line) or {})["u"] == number


def test_a_tally_counts_by_reason_and_names_the_first_line():
    tally = Tally()
    for start, problems in [(0, [None, "blank", "b"]), (3, ["a", None, "b"])]:
        tally.add(pl.DataFrame({"row": range(start, start + 3), "problem": problems}))
    tally.add_line(6, "a")
    tally.add_line(7, None)
    assert (tally.lines, tally.malformed, tally.first_row) == (7, {"a": 2, "b": 2}, {"a": 3, "b": 2})


def test_a_tally_refuses_more_than_the_limit():
    tally = Tally()
    for row, problem in enumerate([None, None, "rare", *["usual"] * 2, None, None, None, None, None]):
        tally.add_line(row, problem)
    tally.check("x.gz", limit=0.3)
    found = r"x.gz: .* share of 0.29 of malformed lines .*, found 3 of 10 lines; most often usual: 2, first in line 4"
    with pytest.raises(SourceError, match=found):
        tally.check("x.gz", limit=0.29)
    with pytest.raises(SourceError, match="found an empty file"):
        Tally().check("x.gz", limit=1)
