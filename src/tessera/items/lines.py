"""JSON lines, plain or gzip, as frames of text: fast where the lines are sound, patient where they are not.

A frame has one row a line, blank lines included: a String column for each field asked for, `row`, the line's place in
the file from 0, and `problem`, the reason why a line cannot be used, null where it can. Fields that are said to be
numbers are columns of those instead, in each frame whose every line has such numbers or nothing there.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import orjson
import polars as pl
from isal import igzip, igzip_lib

from tessera.errors import SourceError

#: Fields of a frame and the names a line may give each of them, the first that it has counts.
Fields = Mapping[str, tuple[str, ...]]

#: Fields that most often are numbers, and of which type.
Numbers = Mapping[str, type[pl.DataType]]

NO_NUMBERS: Final[Numbers] = MappingProxyType({})

#: Bytes parsed at once.
CHUNK = 32 * 2**20

#: How many such chunks are worked on while the next is read, where there are as many cores: one file gives not more.
AHEAD = 4

#: The longest line; and how far a piece that fails as a whole is halved before its lines are looked at one by one.
LONGEST_LINE = 64 * 2**20
SMALL_PIECE = 64 * 2**10

#: What some programs begin a text file with.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

GZIP_MAGIC = b"\x1f\x8b"

#: Control characters, and what stands where bytes could not be read: no source names its users or items so.
UNREADABLE = r"[\x00-\x1F\x7F\uFFFD]"

NEWLINE = ord("\n")

#: A whole number from here on is no 64-bit integer, and `orjson` reads it as the nearest float.
INEXACT = 2.0**63

BLANK = "blank"
NO_RECORD = "no_record"


@dataclass
class Tally:
    """How many lines a source has, and how many of them cannot be used, by reason."""

    lines: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    first_row: dict[str, int] = field(default_factory=dict)

    def add(self, frame: pl.DataFrame) -> None:
        """Count the rows (row, problem) of frame; blank lines are none."""
        problems = frame.filter(pl.col("problem").is_not_null()).group_by("problem").agg(pl.len(), pl.col("row").min())
        self.lines += frame.height
        for problem, count, row in problems.iter_rows():
            self._note(problem, count, row)

    def add_line(self, row: int, problem: str | None) -> None:
        """Count one line, and why it cannot be used."""
        self.lines += 1
        if problem is not None:
            self._note(problem, 1, row)

    def _note(self, problem: str, count: int, row: int) -> None:
        if problem == BLANK:
            self.lines -= count
            return
        self.malformed[problem] += count
        self.first_row[problem] = min(row, self.first_row.get(problem, row))

    def check(self, source: str, *, limit: float) -> None:
        """Raise SourceError where source has no line, or a larger share than limit that cannot be used."""
        if not self.lines:
            raise SourceError(f"{source}: expected at least one line, found an empty file")
        share = self.malformed.total() / self.lines
        if share > limit:
            problem = min(self.malformed, key=lambda each: (-self.malformed[each], self.first_row[each]))
            raise SourceError(
                f"{source}: expected at most a share of {limit:g} of malformed lines (dataset.max_malformed), "
                f"found {self.malformed.total()} of {self.lines} lines; most often {problem}: "
                f"{self.malformed[problem]}, first in line {self.first_row[problem] + 1}"
            )


def read_fields(
    path: Path,
    fields: Fields,
    *,
    numbers: Numbers = NO_NUMBERS,
    then: Callable[[pl.DataFrame], pl.DataFrame] = pl.DataFrame.clone,
) -> Iterator[pl.DataFrame]:
    """Yield the frames of path. A number is its decimal text, and what a line lacks is null.

    Two fields, `{"asin": "B1", "n": 5.0}`, asked for as {"item": ("asin",), "time": ("t", "n")}, give ("B1", "5").
    With numbers = {"time": pl.Int64} they do so too, since 5.0 is no whole number as JSON spells it; an `n` of 5 is 5.
    What is to be done with each frame next, a table of as many rows with its `row`, is best done by `then`: several
    frames are worked on while the file is read.

    Raises SourceError where path cannot be read to its end.
    """
    rows = 0
    for frame in _ahead(lambda chunk: then(_frame(chunk, fields, numbers).with_row_index("row")), read_chunks(path)):
        yield frame.with_columns(pl.col("row") + rows)
        rows += frame.height


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of path, unpacked where they are gzip, in pieces of whole lines.

    No second core helps to unpack one file, so `isal` does it: 2.5 times as fast as `gzip`, and with its checks.

    Raises SourceError where path is missing, breaks off, or has a line that is too long to be one.
    """
    if not path.is_file():
        raise SourceError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        with path.open("rb") as file:
            is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        with igzip.open(path, "rb") if is_gzip else path.open("rb") as content:
            begun, is_first = b"", True
            while piece := content.read(CHUNK):
                if is_first:
                    piece, is_first = piece.removeprefix(BYTE_ORDER_MARK), False
                end = piece.rfind(b"\n") + 1
                if end:
                    yield b"".join((begun, memoryview(piece)[:end]))
                    begun = b""
                begun += piece[end:]
                if len(begun) > LONGEST_LINE:
                    raise SourceError(f"{path}: expected one record a line, found a line over {LONGEST_LINE} bytes")
            if begun:
                yield begun
    except (OSError, EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc] # its stub declares no class
        raise SourceError(
            f"{path}: expected a file that can be read to its end: {error}; remove it and fetch it anew"
        ) from error


def _ahead(work: Callable[[bytes], pl.DataFrame], chunks: Iterator[bytes]) -> Iterator[pl.DataFrame]:
    """Yield work(chunk) of each chunk, in their order, while later chunks are read and worked on."""
    ahead = min(AHEAD, pl.thread_pool_size())
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        begun: deque[Future[pl.DataFrame]] = deque()
        for chunk in chunks:
            begun.append(pool.submit(work, chunk))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _frame(chunk: bytes, fields: Fields, numbers: Numbers) -> pl.DataFrame:
    found = _sound_frame(chunk, fields, numbers) if numbers else None
    return _frame_of_texts(chunk, fields) if found is None else found


def _frame_of_texts(chunk: bytes, fields: Fields) -> pl.DataFrame:
    sound = _sound_frame(chunk, fields, NO_NUMBERS)
    if sound is not None:
        return sound
    half = chunk.rfind(b"\n", 0, len(chunk) // 2) + 1
    if not half or len(chunk) <= SMALL_PIECE:
        return _frame_line_by_line(chunk, fields)
    return pl.concat([_frame_of_texts(part, fields) for part in (chunk[:half], chunk[half:])])


def _sound_frame(chunk: bytes, fields: Fields, numbers: Numbers) -> pl.DataFrame | None:
    """Return the frame of a chunk whose every line is a JSON object with such numbers, and None for any other."""
    schema = {name: numbers.get(field, pl.String) for field, names in fields.items() for name in names}
    try:
        table = pl.read_ndjson(chunk, schema=schema)
    except pl.exceptions.PolarsError:
        return None
    newlines = np.count_nonzero(np.frombuffer(chunk, np.uint8) == NEWLINE)  # `bytes.count` takes 3 times as long
    if table.height != newlines + (not chunk.endswith(b"\n")):
        return None
    return table.select(
        *(pl.coalesce(names).alias(field) for field, names in fields.items()),
        problem=pl.lit(None, pl.String),
    )


def _frame_line_by_line(chunk: bytes, fields: Fields) -> pl.DataFrame:
    columns: dict[str, list[str | None]] = {name: [] for name in (*fields, "problem")}
    for line in lines_of(chunk):
        record = parse_json(line) if line.strip() else {}
        for name, spellings in fields.items():
            values = (as_text((record or {}).get(spelling)) for spelling in spellings)
            columns[name].append(next((value for value in values if value is not None), None))
        columns["problem"].append(BLANK if not line.strip() else NO_RECORD if record is None else None)
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def lines_of(chunk: bytes) -> list[bytes]:
    """Return the lines of chunk without their ends."""
    return chunk.removesuffix(b"\n").split(b"\n")


def parse_json(line: bytes) -> dict[str, Any] | None:
    """Return the object that line spells, and None where it spells none.

    NUL bytes, raw control characters, bytes that are not UTF-8 and halves of surrogate pairs are forgiven: they occur
    in the texts of real dumps, and cost nothing but the character. NaN and the infinities are null.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = _forgiven(line)
    if not isinstance(record, dict):
        return None
    if any(isinstance(value, float) and abs(value) >= INEXACT for value in record.values()):
        record = _forgiven(line)
    return record


def _forgiven(line: bytes) -> Any:
    """Return what line spells, by a reader that is slower, forgives more, and keeps every digit of a whole number."""
    try:
        text = line.replace(b"\0", b"").decode(errors="replace")
        return json.loads(text, strict=False, parse_constant=_nothing)
    except (ValueError, RecursionError):
        return None


def _nothing(_: str) -> None:
    return None


def as_text(value: Any) -> str | None:
    """Return a JSON value, or a date, as text: text itself, 12 and 12.0 as "12", true as "true", null as None."""
    match value:
        case None:
            return None
        case str():
            return sound_text(value)
        case float() if value.is_integer():
            return str(int(value))
        case int() | float() if not isinstance(value, bool):
            return str(value)
        case bool() | list() | dict():
            return sound_text(json.dumps(value, ensure_ascii=False, default=str))
        case _:
            return str(value)


def sound_text(text: str) -> str:
    """Return text with U+FFFD for what no file can hold: halves of surrogate pairs."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
