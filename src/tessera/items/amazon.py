"""Amazon Reviews as published in 2014, 2018 and 2023: reviews and metadata, with the dirt that they come with.

| | 2014 | 2018 | 2023 |
|---|---|---|---|
| review | reviewerID, asin, overall, unixReviewTime | the same | user_id, parent_asin, rating, timestamp |
| time | seconds, whole days | seconds, whole days | milliseconds |
| metadata line | a Python dict | JSON | JSON |
| item | asin | asin | parent_asin |
| description | text | list of texts | list of texts |
| categories | categories: list of paths | category: one path | categories: one path |
| pictures | imUrl | imageURLHighRes, imageURL; or image | images: hi_res, large |
"""

import ast
import re
import warnings
from collections.abc import Callable, Container, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from tessera.errors import SourceError
from tessera.items.lines import Fields, Numbers, Tally, lines_of, parse_json, read_chunks, read_fields
from tessera.items.raw_items import (
    Content,
    RawItem,
    RawItems,
    Record,
    bare_items,
    content_of,
    gather,
    text_of,
    texts_of,
)
from tessera.items.reviews import Unit, reviews_of

Form = Literal["amazon2014", "amazon2018", "amazon2023"]

#: `41fby%2BUjOJL._SX38_SY50_CR,0,0,38,50_.jpg` is a small rendering of `41fby%2BUjOJL.jpg`.
SIZE_SUFFIX = re.compile(r"\._[^/]*_(?=\.\w+$)")

#: In the address of the picture that stands where there is none.
NO_PICTURE = "/no-img"

#: The lines of 2014 have the item at the start. Reading one as Python takes a third of a millisecond, so the many that
#: tell of items nobody reviewed are not.
LITERAL_ITEM = re.compile(rb"\{'asin': '(\w+)'")


class Vintage(NamedTuple):
    """How one publication spells things."""

    fields: Fields
    unit: Unit
    item: str
    categories: str
    pictures: Callable[[Record], list[str]]
    parse: Callable[[bytes], Record | None]


def read_amazon(reviews: Path, metadata: Path | None, *, form: Form, max_malformed: float) -> Content:
    """Return what the files reviews and metadata hold; without metadata the reviewed items are all that is known.

    Raises SourceError where one cannot be read, is empty, or has a larger share than max_malformed of malformed lines.
    """
    table, lines = read_reviews(reviews, form=form, max_malformed=max_malformed)
    keys = table["item_key"].unique()
    if metadata is None:
        return content_of(table, lines=lines, items=bare_items(keys))
    items = read_items(metadata, form=form, reviewed=keys, max_malformed=max_malformed)
    return content_of(table, lines=lines, items=items)


def read_reviews(path: Path, *, form: Form, max_malformed: float) -> tuple[pl.DataFrame, Tally]:
    """Return the reviews in path (user_key, item_key, time, rating, row), in their order, and the tally of its lines.

    Raises SourceError where path cannot be read, more than a share of max_malformed is no review, or none is one.
    """
    vintage, tally, frames = VINTAGES[form], Tally(), []
    for frame in read_fields(path, vintage.fields, numbers=NUMBERS, then=partial(reviews_of, unit=vintage.unit)):
        tally.add(frame)
        frames.append(frame.filter(pl.col("problem").is_null()).drop("problem"))
    tally.check(str(path), limit=max_malformed)
    reviews = pl.concat(frames)
    if reviews.is_empty():
        raise SourceError(f"{path}: expected reviews, found none in {tally.lines} lines")
    return reviews, tally


def read_items(path: Path, *, form: Form, reviewed: pl.Series, max_malformed: float) -> RawItems:
    """Return what the metadata in path says of the reviewed items; where it tells of one twice, the first time counts.

    Raises SourceError where path cannot be read, or more than a share of max_malformed of its lines is no item.
    """
    vintage, keys = VINTAGES[form], frozenset(reviewed)
    return gather(
        _records(path, vintage, reviewed=keys),
        key_field=vintage.item,
        describe=partial(raw_item, vintage=vintage),
        reviewed=keys,
        source=str(path),
        max_malformed=max_malformed,
    )


def _records(path: Path, vintage: Vintage, *, reviewed: Container[str]) -> Iterator[tuple[int, Record | None]]:
    """Yield the lines of metadata with their rows; those of 2014 that are not asked for without their content."""
    lines = (line for chunk in read_chunks(path) for line in lines_of(chunk))
    for row, line in enumerate(lines):
        literal = LITERAL_ITEM.match(line)
        if literal and literal[1].decode() not in reviewed:
            yield row, {vintage.item: literal[1].decode()}
        elif line.strip():
            yield row, vintage.parse(line)


def raw_item(key: str, record: Record, *, vintage: Vintage) -> RawItem:
    """Return what record, a line of metadata, says of the item."""
    return RawItem(
        key,
        text_of(record.get("title")),
        text_of(record.get("description")),
        texts_of(record.get(vintage.categories)),
        [url for url in vintage.pictures(record) if NO_PICTURE not in url],
    )


def parse_literal(line: bytes) -> Record | None:
    """Return the mapping that line spells as a Python literal, or as JSON, and None where it spells none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as \\d, of which the texts are full
            record = ast.literal_eval(line.replace(b"\0", b"").decode(errors="replace").strip())
    except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError):
        return parse_json(line)
    return record if isinstance(record, dict) else None


def full_size(url: str) -> str:
    """Return the address of the whole picture of which url is a rendering; any other url as it is."""
    return SIZE_SUFFIX.sub("", url)


def _pictures_2014(record: Record) -> list[str]:
    urls = texts_of(record.get("imUrl"))
    return list(dict.fromkeys([*map(full_size, urls), *urls]))


def _pictures_2018(record: Record) -> list[str]:
    """Return the whole pictures only: the thumbnails made of them are 40 pixels wide."""
    high, low, thumbnails = (texts_of(record.get(name)) for name in ("imageURLHighRes", "imageURL", "image"))
    each = zip_longest(high, map(full_size, low), map(full_size, thumbnails))
    return list(dict.fromkeys(url for urls in each for url in urls if url))


def _pictures_2023(record: Record) -> list[str]:
    images = record.get("images")
    images = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    main_first = sorted(images, key=lambda image: image.get("variant") != "MAIN")
    return texts_of([[image.get("hi_res"), image.get("large")] for image in main_first])


#: What each publication spells as numbers: to read them as texts takes a fifth longer.
NUMBERS: Numbers = {"time": pl.Int64, "rating": pl.Float64}

FIRST_FIELDS: Fields = {
    "user": ("reviewerID",),
    "item": ("asin",),
    "time": ("unixReviewTime",),
    "rating": ("overall",),
}

#: `sort_timestamp` is how the documentation of 2023 has it.
LATER_FIELDS: Fields = {
    "user": ("user_id",),
    "item": ("parent_asin",),
    "time": ("timestamp", "sort_timestamp"),
    "rating": ("rating",),
}

VINTAGES: dict[Form, Vintage] = {
    "amazon2014": Vintage(FIRST_FIELDS, "s", "asin", "categories", _pictures_2014, parse_literal),
    "amazon2018": Vintage(FIRST_FIELDS, "s", "asin", "category", _pictures_2018, parse_json),
    "amazon2023": Vintage(LATER_FIELDS, "ms", "parent_asin", "categories", _pictures_2023, parse_json),
}
