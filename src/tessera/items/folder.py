"""Bring your own: a folder with interactions, items, and pictures where the items say.

- `interactions.csv`, `.parquet` or `.jsonl`: columns user, item, timestamp, and rating where there is one. A timestamp
  is a number of seconds or of milliseconds since 1970 (the column's median tells which), a date of ISO 8601 as text,
  or a column of dates.
- `items.jsonl`, `.csv` or `.parquet`: columns item, title, and description, categories, image where there are any.
  An image is a path relative to the folder, or a URL, or a list of them, the best first. In CSV a list is written as
  in JSON or Python, and categories also as `one|two`.

Users and items are named by text; the number 12 is the name "12", in whichever file it stands.
"""

import ast
import codecs
import csv
import io
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import polars as pl
import pyarrow as pa
from pyarrow import csv as arrow_csv

from tessera.errors import SourceError
from tessera.items.lines import NO_RECORD, Fields, Tally, as_text, lines_of, parse_json, read_chunks, read_fields
from tessera.items.raw_items import (
    Content,
    RawItem,
    RawItems,
    Record,
    content_of,
    gather,
    has_object,
    text_of,
    texts_of,
)
from tessera.items.reviews import reviews_of, times_in_milliseconds
from tessera.parquet import parquet_schema, parquet_table

log = logging.getLogger("tessera")

Reader = TypeVar("Reader", bound=Callable[..., Any])

#: The column of each field of a review; the last may be missing.
FIELDS: Fields = {"user": ("user",), "item": ("item",), "time": ("timestamp",), "rating": ("rating",)}
REQUIRED_COLUMNS = ("user", "item", "timestamp")

REQUIRED_OF_ITEMS = ("item", "title")

#: Types of a Parquet column that no text is made of; such columns are passed over unless they are needed.
NO_TEXT = (pl.Binary, pl.Duration, pl.Time)

#: How a column of dates becomes text.
DATE_FORMAT = "%Y-%m-%d %H:%M:%S%.3f"

#: Bytes that one block of the CSV reader can not hold: quoted cells may have many lines, so that a file is one block.
LARGEST_CSV = 2**31 - 1

#: The share of items without a row in the items file from which it is warned of.
MANY_UNKNOWN = 1 / 2

#: Characters by which keys, or times, of a file may differ in length, where rows are told from other lines by them.
LENGTHS_APART = 2

#: Between the categories of a cell that is no JSON list.
CATEGORY_SEPARATOR = "|"


def read_folder(folder: Path, *, max_malformed: float) -> Content:
    """Return what folder holds.

    Raises SourceError where a file is missing, lacks a column, cannot be read, is empty, or has a larger share than
    max_malformed of malformed rows.
    """
    reviews, lines = read_interactions(folder, max_malformed=max_malformed)
    keys = reviews["item_key"].unique(maintain_order=True)
    items = read_items(folder, reviewed=keys, max_malformed=max_malformed)
    _require_known(folder, keys, known=items.table["key"])
    return content_of(reviews, lines=lines, items=items)


def _require_known(folder: Path, keys: pl.Series, *, known: pl.Series) -> None:
    """Raise SourceError where none of the keys of the items that were taken is known, and warn where few are."""
    unknown = keys.filter(~keys.is_in(known.implode()))
    if len(unknown) == len(keys):
        path = _only_file(folder, "items", RECORD_READERS)
        own = (as_text(record.get("item")) for _, record in read_records(path, expected=REQUIRED_OF_ITEMS) if record)
        raise SourceError(
            f"{folder}: expected the items file to tell of what the interactions are with, such as {keys[0]!r}, found "
            f"none of these {len(keys)} items in it, but such as {next(filter(None, own), None)!r}; their keys have to "
            "be the same texts, leading zeros and what follows a point included"
        )
    if len(unknown) >= MANY_UNKNOWN * len(keys):
        log.warning("%s: the items file has %d of %d items, not %r", folder, len(known), len(keys), unknown[0])


def read_interactions(folder: Path, *, max_malformed: float) -> tuple[pl.DataFrame, Tally]:
    """Return the reviews in folder (user_key, item_key, time, rating, row), in their order, and the tally of its lines.

    Raises SourceError where there is no one file of interactions, it lacks a column, cannot be read, has no
    interaction, or a larger share than max_malformed of its rows is none.
    """
    return read_interaction_file(_only_file(folder, "interactions", INTERACTION_READERS), max_malformed=max_malformed)


def read_interaction_file(path: Path, *, max_malformed: float) -> tuple[pl.DataFrame, Tally]:
    """Return the reviews in the one file at path, as read_interactions does."""
    fields = _reader(path, INTERACTION_READERS)(path)
    tally = Tally()
    rows = reviews_of(fields.with_columns(times_in_milliseconds(fields["time"])), unit="ms")
    tally.add(rows)
    tally.check(str(path), limit=max_malformed)
    reviews = rows.filter(pl.col("problem").is_null()).drop("problem")
    if reviews.is_empty():
        raise SourceError(f"{path}: expected interactions, found none in {tally.lines} rows")
    return reviews, tally


def read_items(folder: Path, *, reviewed: pl.Series, max_malformed: float) -> RawItems:
    """Return what the items file in folder says of the reviewed items; where one comes twice, the first time counts.

    Raises SourceError where there is no one file of items, it lacks a column, cannot be read, or a larger share than
    max_malformed of its rows is no item.
    """
    path = _only_file(folder, "items", RECORD_READERS)
    return read_item_file(path, reviewed=frozenset(reviewed), max_malformed=max_malformed)


def read_item_file(path: Path, *, reviewed: frozenset[str] | None, max_malformed: float) -> RawItems:
    """Return what the one file at path says of the reviewed items, or of all for None, as read_items does.

    Objects in cells are passed over, and warned of.
    """
    objects: dict[str, list[str]] = {}

    def describe(key: str, record: Record) -> RawItem:
        cells = {
            "title": record.get("title"),
            "description": record.get("description"),
            "categories": listed(record.get("categories"), separator=CATEGORY_SEPARATOR),
            "image": listed(record.get("image")),
        }
        for name, cell in cells.items():
            if has_object(cell):
                objects.setdefault(name, []).append(key)
        title, description, categories, image = cells.values()
        return RawItem(key, text_of(title), text_of(description), texts_of(categories), texts_of(image))

    found = gather(
        read_records(path, expected=REQUIRED_OF_ITEMS),
        key_field="item",
        describe=describe,
        reviewed=reviewed,
        source=str(path),
        max_malformed=max_malformed,
    )
    for name, keys in objects.items():
        expected = "expected texts or lists of them"
        log.warning(
            "%s: %s: %s, found objects in %d items, such as %s: passed over", path, name, expected, len(keys), keys[0]
        )
    return found


def read_records(path: Path, *, expected: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    """Yield the rows of the file at path, by its ending, each with its place and None where it is malformed.

    Raises SourceError where the file cannot be read or lacks one of the expected columns.
    """
    return _reader(path, RECORD_READERS)(path, expected)


def columns_of(path: Path) -> list[str]:
    """Return the columns of the file at path: of JSON lines those of the first record."""
    _reader(path, RECORD_READERS)
    if path.suffix == ".parquet":
        with _as_parquet(path):
            return list(parquet_schema(path))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _header(file, path)
    return list(next((record for _, record in _record_lines(path, ()) if record), {}))


def _reader(path: Path, readers: Mapping[str, Reader]) -> Reader:
    if path.suffix not in readers or not path.is_file():
        found = "nothing" if not path.exists() else "a folder" if path.is_dir() else "another"
        raise SourceError(f"{path}: expected a file that ends in {', '.join(readers)}, found {found}")
    return readers[path.suffix]


def _only_file(folder: Path, stem: str, readers: Mapping[str, Reader]) -> Path:
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder, found {'a file' if folder.exists() else 'nothing'}")
    found = [suffix for suffix in readers if (folder / stem).with_suffix(suffix).is_file()]
    if len(found) != 1:
        names = ", ".join(stem + suffix for suffix in readers)
        raise SourceError(
            f"{folder}: expected one of {names}, found {', '.join(stem + each for each in found) or 'none'}"
        )
    return (folder / stem).with_suffix(found[0])


def _check_columns(path: Path, *, expected: Iterable[str], found: Collection[str]) -> None:
    missing = [column for column in expected if column not in found]
    if missing:
        raise SourceError(
            f"{path}: expected the columns {', '.join(expected)}, found {', '.join(found) or 'none'}: "
            f"{', '.join(missing)} is missing"
        )


def _refuse_array(path: Path) -> None:
    """Raise SourceError where path holds one JSON array, as some programs write it."""
    if next(read_chunks(path), b"").lstrip().startswith(b"["):
        raise SourceError(
            f"{path}: expected one JSON object a line, found a JSON array; `jq -c '.[]'` makes lines of it"
        )


def _interaction_cells(path: Path) -> pl.DataFrame:
    table, rows, broken = _read_csv(path)
    _check_columns(path, expected=REQUIRED_COLUMNS, found=table.columns)
    fields = _fields_of(table).with_columns(row=rows)
    breaks = sum(table[name].str.count_matches("\n").fill_null(0) for name in REQUIRED_COLUMNS)
    breaks += _swallowed_lines(table, by="timestamp", filled=REQUIRED_COLUMNS)
    lines = fields.with_columns(lines=breaks + 1)
    sound, swallowed = lines.filter(lines=1), lines.filter(pl.col("lines") > 1)
    broken += swallowed.select(pl.col("row").repeat_by("lines").explode())["row"].to_list()
    lost = pl.DataFrame({"row": pl.Series(broken, dtype=pl.Int64), "problem": [NO_RECORD] * len(broken)})
    return pl.concat([sound.drop("lines"), lost], how="diagonal_relaxed").sort("row", maintain_order=True)


def _interaction_rows(path: Path) -> pl.DataFrame:
    table = _read_parquet(path, expected=REQUIRED_COLUMNS, also=lambda name, _: (name,) in FIELDS.values())
    return _fields_of(table.select(_text_column(path, column) for column in table)).with_row_index("row")


def _interaction_lines(path: Path) -> pl.DataFrame:
    _refuse_array(path)
    frames = list(read_fields(path, FIELDS))
    if not frames:
        raise SourceError(f"{path}: expected interactions, found an empty file")
    fields = pl.concat(frames)
    present = {column for field, (column,) in FIELDS.items() if fields[field].null_count() < fields.height}
    if not present.issuperset(REQUIRED_COLUMNS):
        first = next((record for _, record in _record_lines(path, ()) if record), {})
        _check_columns(path, expected=REQUIRED_COLUMNS, found=sorted(present.union(first)))
    return fields


def _fields_of(table: pl.DataFrame) -> pl.DataFrame:
    rating = "rating" if "rating" in table.columns else pl.lit(None, pl.String)
    return table.select(user="user", item="item", time="timestamp", rating=rating, problem=pl.lit(None, pl.String))


def _text_column(path: Path, column: pl.Series) -> pl.Series:
    """Return column as text: a whole number without a point, a date as in ISO 8601, NaN as nothing."""
    try:
        if column.dtype.is_decimal():
            return column.cast(pl.String).str.replace(r"\.0*$", "")
        if column.dtype.is_float():
            whole = column.cast(pl.Int64, strict=False)
            is_whole = (column == whole).fill_null(False)
            text = pl.when(is_whole).then(whole.cast(pl.String)).otherwise(column.fill_nan(None).cast(pl.String))
            return pl.select(text.alias(column.name)).to_series()
        if column.dtype.is_temporal():
            in_utc = column.dt.convert_time_zone("UTC") if getattr(column.dtype, "time_zone", None) else column
            return in_utc.cast(pl.Datetime("ms")).dt.strftime(DATE_FORMAT)
        if column.dtype.is_nested():
            raise pl.exceptions.InvalidOperationError("a cell holds several values")
        return column.cast(pl.String, strict=False)
    except pl.exceptions.PolarsError as error:
        raise SourceError(
            f"{path}: {column.name}: expected text, numbers or dates, found {column.dtype}: {error}"
        ) from error


class Cells(NamedTuple):
    """What a CSV file holds."""

    table: pl.DataFrame  # its columns as text
    rows: pl.Series  # the place of each row in the file, from 1: the header has 0
    broken: list[int]  # the rows that have more or fewer cells than the header, each once for each of its lines


def _read_csv(path: Path) -> Cells:
    """Return the cells of path; bytes that are not UTF-8 are forgiven, and warned of.

    Raises SourceError where it is no CSV, or UTF-16.
    """
    text = _decoded(path)
    header = _header(io.StringIO(text), path)
    broken: list[int] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        broken.extend([row.number - 1] * (1 + row.text.count("\n")))
        return "skip"

    content = text.encode()
    if len(content) >= LARGEST_CSV:
        raise SourceError(f"{path}: expected at most 2 GiB as CSV, found {len(content):,} bytes; write it as Parquet")
    try:
        cells = arrow_csv.read_csv(
            io.BytesIO(content),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        table = pl.DataFrame(pl.from_arrow(cells))
    except (pa.ArrowInvalid, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{path}: expected CSV with a header: {error}") from error
    taken = set(broken)
    places = (place for place in range(1, table.height + len(taken) + 1) if place not in taken)
    return Cells(table, pl.Series(places, dtype=pl.Int64), broken)


def _swallowed_lines(table: pl.DataFrame, *, by: str, filled: Sequence[str]) -> pl.Series:
    """Return how many lines the cells of each row, but for those filled, have swallowed behind a stray quotation mark.

    A cell may well have several lines; one has swallowed its own if most of them are like rows: with as many cells as
    there are columns, none of those filled empty, and the one of column `by` spelled like that of the row itself.
    """
    place, needed = table.columns.index(by), [table.columns.index(name) for name in filled]
    swallowed = [0] * table.height

    def is_row(line: str, own: str) -> bool:
        cells = line.split(",")
        return (
            len(cells) == table.width
            and all(cells[each].strip() for each in needed)
            and _is_spelled_like(cells[place].strip(), own)
        )

    for column in table.drop(filled):
        has_lines = column.str.contains("\n", literal=True).fill_null(False)
        cells = (table.filter(has_lines).get_column(name) for name in (by, column.name))
        for row, own, cell in zip(has_lines.arg_true(), *cells, strict=True):
            inner = cell.removesuffix("\n").split("\n")[1:]
            if sum(is_row(line, own or "") for line in inner) > len(inner) / 2:
                swallowed[row] += len(inner)
    return pl.Series(swallowed, dtype=pl.UInt32)


def _is_spelled_like(text: str, other: str) -> bool:
    """Whether two texts have about the same length and the same kinds of characters, as keys and times do."""
    kinds, others = ({_kind(letter) for letter in each} for each in (text, other))
    return kinds == others and abs(len(text) - len(other)) <= LENGTHS_APART


def _kind(letter: str) -> str:
    return "0" if letter.isdigit() else "A" if letter.isupper() else "a" if letter.islower() else letter


def _header(lines: Iterable[str], path: Path) -> list[str]:
    try:
        return next(csv.reader(lines), [])
    except csv.Error as error:
        raise SourceError(f"{path}: expected CSV with a header: {error}") from error


def _decoded(path: Path) -> str:
    """Return the text of path; what is not UTF-8 becomes U+FFFD, and a warning says where."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceError(f"{path}: expected UTF-8, found UTF-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        log.warning("%s: line %d is not UTF-8; letters that cannot be read become \ufffd", path, line)
        return content.decode("utf-8-sig", errors="replace")


def _read_parquet(path: Path, *, expected: Sequence[str], also: Callable[[str, pl.DataType], bool]) -> pl.DataFrame:
    """Return the columns of path that are expected, and those others for whose name and type `also` is true."""
    with _as_parquet(path):
        schema = parquet_schema(path)
        _check_columns(path, expected=expected, found=schema)
        wanted = [name for name, kind in schema.items() if name in expected or also(name, kind)]
        return parquet_table(path, columns=wanted)


@contextmanager
def _as_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: expected Parquet: {error}") from error


def _csv_rows(path: Path, expected: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    table, rows, broken = _read_csv(path)
    _check_columns(path, expected=expected, found=table.columns)
    _warn_of_swallowed_lines(path, table, rows, key=expected[0])
    yield from ((row, None) for row in broken)
    for row, record in zip(rows, table.iter_rows(named=True), strict=True):
        key = record[expected[0]] or ""
        swallowed = sum(cell.count("\n") for cell in record.values() if cell) if "\n" in key else 0
        yield row, None if swallowed else record
        yield from ((row, None) for _ in range(swallowed))


def _warn_of_swallowed_lines(path: Path, table: pl.DataFrame, rows: pl.Series, *, key: str) -> None:
    """Warn of cells that may have swallowed rows: a text with as many commas a line may be just that."""
    swallowed = _swallowed_lines(table, by=key, filled=[key])
    places = (swallowed > 0).arg_true()
    if len(places):
        first = places[0]
        message = "%s: %d rows have lines that look like rows, the first is row %d with %d of them; is a quote missing?"
        log.warning(message, path, len(places), rows[first], swallowed[first])


def _parquet_rows(path: Path, expected: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    table = _read_parquet(path, expected=expected, also=lambda _, kind: kind not in NO_TEXT)
    lists = [column.dtype.is_nested() for column in table]
    texts = (column if is_list else _text_column(path, column) for column, is_list in zip(table, lists, strict=True))
    return enumerate(table.select(texts).iter_rows(named=True))


def _record_lines(path: Path, expected: Sequence[str]) -> Iterator[tuple[int, Record | None]]:
    _refuse_array(path)
    columns: set[str] = set()
    lines = (line for chunk in read_chunks(path) for line in lines_of(chunk))
    for row, line in enumerate(lines):
        if line.strip():
            record = parse_json(line)
            columns |= (record or {}).keys()
            yield row, record
    _check_columns(path, expected=expected, found=sorted(columns))


def listed(value: Any, *, separator: str | None = None) -> Any:
    """Return the list that a text spells, and any other value as it is: `'["a", "b"]'` or, by separator, `"a|b"`.

    A list may also be spelled as in Python, `"['a', 'b']"`, as a table's program writes it that knows no lists.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        for spelled in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return spelled(value)
    return [part.strip() for part in value.split(separator)] if separator else value


#: How a file is read, by its ending.
INTERACTION_READERS = {".csv": _interaction_cells, ".parquet": _interaction_rows, ".jsonl": _interaction_lines}
RECORD_READERS = {".jsonl": _record_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
