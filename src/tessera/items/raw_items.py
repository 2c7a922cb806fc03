"""What a source says of its items, in whatever types it says it, as one table: raw text, and addresses of pictures."""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import polars as pl

from tessera.items.lines import NO_RECORD, UNREADABLE, Tally, as_text, sound_text
from tessera.items.reviews import PROBLEMS as REVIEW_PROBLEMS

Record = Mapping[str, Any]

#: Items held as Python objects at one time.
BATCH = 10_000


class RawItem(NamedTuple):
    """An item in the source's words; `pictures` are addresses, the best first."""

    key: str
    title: str
    description: str
    categories: list[str]
    pictures: list[str]


SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "title": pl.String,
    "description": pl.String,
    "categories": pl.List(pl.String),
    "pictures": pl.List(pl.String),
}

#: Why a line is no item.
PROBLEMS = ("no_record", "missing_item", "bad_item")


class Content(NamedTuple):
    """What a source holds: reviews (user_key, item_key, time, rating, row), items (SCHEMA), and counts of its lines."""

    reviews: pl.DataFrame
    items: pl.DataFrame
    counts: dict[str, dict[str, Any]]


class RawItems(NamedTuple):
    """A table of SCHEMA, sorted by key, each key once; and how many lines its source has, and what became of them."""

    table: pl.DataFrame
    counts: dict[str, Any]


def content_of(reviews: pl.DataFrame, *, lines: Tally, items: RawItems) -> Content:
    """Return reviews, of lines, and items as the content of a source."""
    counts = {
        "lines": lines.lines,
        "kept": reviews.height,
        "malformed": {problem: lines.malformed[problem] for problem in REVIEW_PROBLEMS},
    }
    described = {
        "reviewed": reviews["item_key"].n_unique(),
        "with_pictures": items.table.filter(pl.col("pictures").list.len() > 0).height,
    }
    return Content(reviews, items.table, {"reviews": counts, "items": items.counts | described})


def gather(
    records: Iterable[tuple[int, Record | None]],
    *,
    key_field: str,
    describe: Callable[[str, Record], RawItem],
    reviewed: Container[str] | None,
    source: str,
    max_malformed: float,
) -> RawItems:
    """Return what records, with their rows in source and None where a line is malformed, say of the reviewed items.

    None for reviewed stands for all.

    Where an item is described twice the first time counts. Raises SourceError where there is no record, or more than
    a share of max_malformed is no item.
    """
    tally = Tally()
    items = _reviewed_items(records, key_field=key_field, describe=describe, reviewed=reviewed, tally=tally)
    tables = [item_table(())]
    while batch := list(islice(items, BATCH)):
        tables.append(item_table(batch))
    tally.check(source, limit=max_malformed)
    found = pl.concat(tables)
    table = found.unique("key", keep="first", maintain_order=True).sort("key")
    counts = {
        "lines": tally.lines,
        "kept": table.height,
        "repeated": found.height - table.height,
        "not_reviewed": tally.lines - tally.malformed.total() - found.height,
        "malformed": {problem: tally.malformed[problem] for problem in PROBLEMS},
    }
    return RawItems(table, counts)


def bare_items(keys: pl.Series) -> RawItems:
    """Return the items of keys where no source says anything of them."""
    table = item_table(RawItem(key, "", "", [], []) for key in keys.unique().sort())
    no_lines = {"lines": 0, "kept": table.height, "repeated": 0, "not_reviewed": 0}
    return RawItems(table, {**no_lines, "malformed": dict.fromkeys(PROBLEMS, 0)})


def item_table(items: Iterable[RawItem]) -> pl.DataFrame:
    """Return items as a table of SCHEMA, in their order."""
    return pl.DataFrame(list(items), schema=SCHEMA, orient="row")


def _reviewed_items(
    records: Iterable[tuple[int, Record | None]],
    *,
    key_field: str,
    describe: Callable[[str, Record], RawItem],
    reviewed: Container[str] | None,
    tally: Tally,
) -> Iterator[RawItem]:
    for row, record in records:
        key = "" if record is None else as_text(record.get(key_field)) or ""
        problem = NO_RECORD if record is None else _problem_of_key(key)
        tally.add_line(row, problem)
        if record is not None and problem is None and (reviewed is None or key in reviewed):
            yield describe(key, record)


def _problem_of_key(key: str) -> str | None:
    if not key:
        return "missing_item"
    return "bad_item" if re.search(UNREADABLE, key) else None


def text_of(value: Any) -> str:
    """Return a value as text: the parts of a list a line each, nothing for null and for mappings."""
    if isinstance(value, str):
        return sound_text(value)
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(text_of, _laid_flat(value))))
    return "" if value is None or isinstance(value, Mapping) else as_text(value) or ""


def texts_of(value: Any) -> list[str]:
    """Return the texts in a value, lists in lists laid flat, each once: `[["a", "b"], ["a", "c"]]` gives a, b, c."""
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(filter(None, map(text_of, _laid_flat(value)))))
    text = text_of(value)
    return [text] if text else []


def has_object(value: Any) -> bool:
    """Whether a value is a mapping, or a list that holds one, of which no text is made."""
    if isinstance(value, list | tuple):
        return any(isinstance(part, Mapping) for part in _laid_flat(value))
    return isinstance(value, Mapping)


def _laid_flat(parts: Sequence[Any]) -> Iterator[Any]:
    """Yield what parts and the lists in it hold, however deep these are."""
    left = [iter(parts)]
    while left:
        for part in left[-1]:
            if isinstance(part, list | tuple):
                left.append(iter(part))
                break
            yield part
        else:
            left.pop()
