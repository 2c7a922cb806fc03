"""Bring your own: a folder with interactions, items, and pictures where the items say.

- `interactions.csv`, `.parquet` or `.jsonl`: columns user, item, timestamp, and rating where there is one. A timestamp
  is a number of seconds or of milliseconds since 1970 (the column's median tells which), a date of ISO 8601 as text,
  or a column of dates.
- `items.jsonl`, `.csv` or `.parquet`: columns item, title, and description, categories, image where there are any.
  An image is a path relative to the folder, or a URL, or a list of them, the best first. In CSV a list is written as
  in JSON, and categories also as `one|two`.

Users and items are named by text; the number 12 is the name "12", in whichever file it stands.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from tessera.errors import SourceError
from tessera.items.lines import Fields, Tally, lines_of, parse_json, read_chunks, read_fields
from tessera.items.raw_items import Content, RawItem, RawItems, Record, content_of, gather, text_of, texts_of
from tessera.items.reviews import reviews_of, times_in_milliseconds

Reader = TypeVar("Reader", bound=Callable[[Path], Any])

#: The column of each field of a review; the last may be missing.
FIELDS: Fields = {"user": ("user",), "item": ("item",), "time": ("timestamp",), "rating": ("rating",)}
REQUIRED_COLUMNS = ("user", "item", "timestamp")

REQUIRED_OF_ITEMS = ("item", "title")

#: How a column of dates becomes text.
DATE_FORMAT = "%Y-%m-%d %H:%M:%S%.3f"

#: Between the categories of a cell that is no JSON list.
CATEGORY_SEPARATOR = "|"


def read_folder(folder: Path, *, max_malformed: float) -> Content:
    """Return what folder holds.

    Raises SourceError where a file is missing, lacks a column, cannot be read, is empty, or has a larger share than
    max_malformed of malformed rows.
    """
    reviews, lines = read_interactions(folder, max_malformed=max_malformed)
    items = read_items(folder, reviewed=reviews["item_key"].unique(), max_malformed=max_malformed)
    return content_of(reviews, lines=lines, items=items)


def read_interactions(folder: Path, *, max_malformed: float) -> tuple[pl.DataFrame, Tally]:
    """Return the reviews in folder (user_key, item_key, time, rating, row), in their order, and the tally of its lines.

    Raises SourceError where there is no one file of interactions, it lacks a column, cannot be read, has no
    interaction, or a larger share than max_malformed of its rows is none.
    """
    readers = {".csv": _interaction_cells, ".parquet": _interaction_rows, ".jsonl": _interaction_lines}
    path, read = _only_file(folder, "interactions", readers)
    fields = read(path)
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
    path, read = _only_file(folder, "items", {".jsonl": _item_lines, ".csv": _csv_rows, ".parquet": _parquet_rows})
    return gather(
        read(path),
        key_field="item",
        describe=_raw_item,
        reviewed=frozenset(reviewed),
        source=str(path),
        max_malformed=max_malformed,
    )


def _only_file(folder: Path, stem: str, readers: Mapping[str, Reader]) -> tuple[Path, Reader]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a folder, found {'a file' if folder.exists() else 'nothing'}")
    found = [suffix for suffix in readers if (folder / stem).with_suffix(suffix).is_file()]
    if len(found) != 1:
        names = ", ".join(stem + suffix for suffix in readers)
        raise SourceError(
            f"{folder}: expected one of {names}, found {', '.join(stem + each for each in found) or 'none'}"
        )
    return (folder / stem).with_suffix(found[0]), readers[found[0]]


def _check_columns(path: Path, *, expected: Iterable[str], found: Collection[str]) -> None:
    missing = [column for column in expected if column not in found]
    if missing:
        raise SourceError(
            f"{path}: expected the columns {', '.join(expected)}, found {', '.join(found) or 'none'}: "
            f"{', '.join(missing)} is missing"
        )


def _interaction_cells(path: Path) -> pl.DataFrame:
    return _fields_of(path, _read_csv(path)).with_row_index("row", offset=1)


def _interaction_rows(path: Path) -> pl.DataFrame:
    table = _read_parquet(path)
    return _fields_of(path, table.select(_text_column(column) for column in table)).with_row_index("row")


def _interaction_lines(path: Path) -> pl.DataFrame:
    frames = list(read_fields(path, FIELDS))
    if not frames:
        raise SourceError(f"{path}: expected interactions, found an empty file")
    fields = pl.concat(frames)
    present = {column for field, (column,) in FIELDS.items() if fields[field].null_count() < fields.height}
    if not present.issuperset(REQUIRED_COLUMNS):
        first = next((record for _, record in _item_lines(path) if record), {})
        _check_columns(path, expected=REQUIRED_COLUMNS, found=sorted(present.union(first)))
    return fields


def _fields_of(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    _check_columns(path, expected=REQUIRED_COLUMNS, found=table.columns)
    rating = "rating" if "rating" in table.columns else pl.lit(None, pl.String)
    return table.select(user="user", item="item", time="timestamp", rating=rating, problem=pl.lit(None, pl.String))


def _text_column(column: pl.Series) -> pl.Series:
    """Return column as text: a whole number without a point, a date as in ISO 8601."""
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return pl.select(
            pl.when(column == whole).then(whole.cast(pl.String)).otherwise(column.cast(pl.String)).alias(column.name)
        ).to_series()
    if column.dtype.is_temporal():
        in_utc = column.dt.convert_time_zone("UTC") if getattr(column.dtype, "time_zone", None) else column
        return in_utc.cast(pl.Datetime("ms")).dt.strftime(DATE_FORMAT)
    return column.cast(pl.String, strict=False)


def _read_csv(path: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(path, infer_schema=False, encoding="utf8-lossy", truncate_ragged_lines=True)
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: expected CSV with a header: {error}") from error


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: expected Parquet: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Record | None]]:
    return _rows(path, _read_csv(path), first=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Record | None]]:
    return _rows(path, _read_parquet(path), first=0)


def _rows(path: Path, table: pl.DataFrame, *, first: int) -> Iterator[tuple[int, Record | None]]:
    _check_columns(path, expected=REQUIRED_OF_ITEMS, found=table.columns)
    return enumerate(table.iter_rows(named=True), start=first)


def _item_lines(path: Path) -> Iterator[tuple[int, Record | None]]:
    columns: set[str] = set()
    lines = (line for chunk in read_chunks(path) for line in lines_of(chunk))
    for row, line in enumerate(lines):
        if line.strip():
            record = parse_json(line)
            columns |= (record or {}).keys()
            yield row, record
    _check_columns(path, expected=REQUIRED_OF_ITEMS, found=sorted(columns))


def _raw_item(key: str, record: Record) -> RawItem:
    return RawItem(
        key,
        text_of(record.get("title")),
        text_of(record.get("description")),
        texts_of(_listed(record.get("categories"), separator=CATEGORY_SEPARATOR)),
        texts_of(_listed(record.get("image"))),
    )


def _listed(value: Any, *, separator: str | None = None) -> Any:
    """Return the list that a text spells, and any other value as it is: `'["a", "b"]'` or, by separator, `"a|b"`."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return [part.strip() for part in value.split(separator)] if separator else value
