"""The demo shop: a data set of the project's own in the raw form of Amazon 2018, for a first run without a download.

Each product has five hidden attributes and a popularity:

| attribute | told by | a shopper's next product |
|---|---|---|
| category | text and picture | is of one of the next two categories, seldom of the same |
| pursuit | text | serves the pursuit that follows in the day (PURSUITS), or the same |
| room | text | is for the shopper's own room |
| colour | picture | has the next colour on the wheel (COLOURS), or the same |
| pattern | picture | has the shopper's own pattern |

Attributes are dealt independently, so text tells nothing of what only pictures show, and the reverse. Each of them
multiplies a product's chance to be next (`LIKING`); "next" counts from the product bought before, so what comes
depends on what recent products show and not on which products they are. Products bought on one day are one basket:
all follow from the product before it, so their order holds nothing. Now and then a shopper buys on a whim, by
popularity alone.

The raw form has its usual dirt in small, known amounts: the constants with `_EVERY`, "one in so many".
"""

import base64
import gzip
import html
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.errors import ParamsError
from tessera.items.demo_pictures import COLOURS, PATTERNS, draw_picture
from tessera.items.demo_words import CATEGORIES, PURSUITS, ROOMS, word_product, word_review, word_reviewer

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Attributes(NamedTuple):
    """What products are, as places in CATEGORIES, PURSUITS, ROOMS, COLOURS and PATTERNS: (N) each."""

    category: Integers
    pursuit: Integers
    room: Integers
    colour: Integers
    pattern: Integers
    popularity: Floats


class Purchases(NamedTuple):
    """Who bought what when, by user and in the order of buying: (R) each; days count from FIRST_DAY."""

    user: Integers
    item: Integers
    day: Integers


#: The values of each attribute.
VALUES: dict[str, tuple[str, ...]] = {
    "category": tuple(CATEGORIES),
    "pursuit": tuple(PURSUITS),
    "room": tuple(ROOMS),
    "colour": tuple(COLOURS),
    "pattern": tuple(PATTERNS),
}

#: How much likelier a product gets by lying 0, 1, 2... places after what the shopper comes from; 1 beyond these.
LIKING: dict[str, tuple[float, ...]] = {
    "category": (0.1, 40.0, 40.0),
    "pursuit": (40.0, 1500.0),
    "room": (400.0,),
    "colour": (40.0, 1500.0),
    "pattern": (400.0,),
}

#: These a shopper is born with and keeps; the others follow from the product before.
TASTES = ("room", "pattern")

#: Popularity falls from 1 / POPULARITY_FLOOR to 1 / (1 + POPULARITY_FLOOR) along the products' ranks.
POPULARITY_FLOOR = 0.25

#: The chance that a product is bought by popularity alone, and that it joins the basket of the one before.
WHIM, SAME_DAY = 0.05, 0.12

#: Purchases of a shopper: at least, at most, and on average above the least.
FEWEST, MOST, MORE = 6, 30, 3.0

FIRST_DAY = datetime(2014, 1, 1, tzinfo=UTC)
#: Shoppers first come within so many days, and come back after so many on average.
OPENING_DAYS, DAYS_BETWEEN = 1000, 25.0

#: Shares of one to five stars.
RATINGS = (0.04, 0.05, 0.1, 0.23, 0.58)

#: Reviews: one in so many stands twice, was rewritten on the same day, is followed by a line cut short, has no text.
DOUBLED_EVERY, REWRITTEN_EVERY, CUT_EVERY, SILENT_EVERY = 100, 150, 500, 40
#: Metadata: one product in so many has no description, has HTML in its text.
UNDESCRIBED_EVERY, HTML_EVERY = 20, 10
#: Metadata: of so many products, the last ones have one of these each.
RARE_EVERY = 200
RARE_DIRT = ("no picture", "half a picture", "two lines", "a line cut short")

#: Weights of shoppers against products that are held at once.
BLOCK_CELLS = 1_000_000

#: One stream of random numbers each, so that more shoppers do not change the products.
ATTRIBUTES_STREAM, SHOPPERS_STREAM, WORDS_STREAM, PICTURES_STREAM, REVIEWS_STREAM = range(5)

DIGITS, KEY_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", 9
#: Near the golden section of all keys, and prime to their number: its multiples lie scattered and apart.
SCATTER = 62_767_505_214_769


def write_demo(folder: Path, *, users: int, items: int, seed: int) -> None:
    """Write the shop to folder as `reviews.json.gz` and `meta.json.gz`: the same bytes for the same arguments.

    Pictures are `data:` URLs within the metadata. Raises ParamsError unless users and items are positive and seed is
    not negative.
    """
    for name, value, least in (("users", users, 1), ("items", items, 1), ("seed", seed, 0)):
        if value < least:
            raise ParamsError(f"dataset.{name}: expected at least {least}, found {value}")
    attributes = hidden_attributes(items=items, seed=seed)
    purchases = go_shopping(attributes, users=users, generator=_generator(seed, SHOPPERS_STREAM))
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "meta.json.gz", _metadata_lines(attributes, seed=seed))
    _write_lines(folder / "reviews.json.gz", _review_lines(purchases, generator=_generator(seed, REVIEWS_STREAM)))


def hidden_attributes(*, items: int, seed: int) -> Attributes:
    """Deal each attribute's values evenly over the items, and independently of the other attributes."""
    generator = _generator(seed, ATTRIBUTES_STREAM)
    dealt = {name: generator.permutation(np.arange(items) % len(values)) for name, values in VALUES.items()}
    return Attributes(**dealt, popularity=1 / (POPULARITY_FLOOR + generator.permutation(items) / items))


def go_shopping(attributes: Attributes, *, users: int, generator: np.random.Generator) -> Purchases:
    """Let users shop one product after the other, none twice, as `LIKING` says."""
    items = len(attributes.popularity)
    block = max(1, BLOCK_CELLS // items)
    parts = [
        _go_shopping_together(attributes, first=first, users=min(block, users - first), generator=generator)
        for first in range(0, users, block)
    ]
    return Purchases(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _go_shopping_together(
    attributes: Attributes, *, first: int, users: int, generator: np.random.Generator
) -> Purchases:
    """Let users numbered from first shop step by step, all at once."""
    items = len(attributes.popularity)
    lengths = np.clip(FEWEST + generator.geometric(1 / (MORE + 1), size=users) - 1, 1, min(MOST, items))
    shape = (users, int(lengths.max()))
    tastes = {name: generator.integers(len(VALUES[name]), size=users) for name in TASTES}
    whim = generator.random(shape) < WHIM
    same_day = generator.random(shape) < SAME_DAY
    same_day[:, 0] = False
    lot = generator.random(shape)
    before: Integers = generator.integers(items, size=users)
    bought = np.zeros(shape, dtype=np.int64)
    for step in range(shape[1]):
        still = np.flatnonzero(lengths > step)
        if step > 0:
            before = np.where(same_day[:, step], before, bought[:, step - 1])
        own = {name: taste[still] for name, taste in tastes.items()}
        appeal = _appeal(attributes, before=before[still], tastes=own)
        appeal = np.where(whim[still, step, None], attributes.popularity, appeal)
        np.put_along_axis(appeal, bought[still, :step], 0.0, axis=1)
        bought[still, step] = _drawn(appeal, lot[still, step])
    pauses = np.where(same_day, 0, generator.geometric(1 / DAYS_BETWEEN, size=shape))
    days = generator.integers(OPENING_DAYS, size=(users, 1)) + pauses.cumsum(axis=1)
    made = np.nonzero(np.arange(shape[1]) < lengths[:, None])
    return Purchases(first + made[0], bought[made], days[made])


def _appeal(attributes: Attributes, *, before: Integers, tastes: dict[str, Integers]) -> Floats:
    """Return the weight of each product for shoppers who come from the products before (B): (B, N)."""
    appeal = np.tile(attributes.popularity, (len(before), 1))
    for name, values in VALUES.items():
        shown = getattr(attributes, name)
        origin = tastes[name] if name in TASTES else shown[before]
        liking = np.ones(len(values))
        liking[: len(LIKING[name])] = LIKING[name]
        by_value = liking[(np.arange(len(values)) - origin[:, None]) % len(values)]  # (B, values)
        appeal *= by_value[:, shown]
    return appeal


def _drawn(weights: Floats, lot: Floats) -> Integers:
    """Return for each row of weights (B, N) the column that lot (B), in [0, 1), falls on; never one without weight."""
    reached = weights.cumsum(axis=1)
    return (reached < ((1 - lot) * reached[:, -1])[:, None]).sum(axis=1)


def _review_lines(purchases: Purchases, *, generator: np.random.Generator) -> Iterator[str]:
    """Yield the reviews as JSON, grouped by item and then by day, with their dirt."""
    names = [word_reviewer(generator) for _ in range(int(purchases.user.max()) + 1)]
    ratings = generator.choice(len(RATINGS), p=RATINGS, size=len(purchases.user)) + 1
    for place, row in enumerate(np.lexsort((purchases.day, purchases.item)), start=1):
        review = _review(purchases, row, rating=int(ratings[row]), name=names[purchases.user[row]], generator=generator)
        if place % SILENT_EVERY == 0:
            del review["reviewText"]
        line = json.dumps(review)
        yield line
        if place % DOUBLED_EVERY == 0:
            yield line
        if place % REWRITTEN_EVERY == 0:
            yield json.dumps({**review, "reviewText": "Edited: still my opinion."})
        if place % CUT_EVERY == 0:
            yield line[: len(line) // 2]


def _review(
    purchases: Purchases, row: int, *, rating: int, name: str, generator: np.random.Generator
) -> dict[str, Any]:
    time = FIRST_DAY + timedelta(days=int(purchases.day[row]))
    summary, text = word_review(rating=rating, generator=generator)
    return {
        "overall": float(rating),
        "verified": True,
        "reviewTime": f"{time:%m} {time.day}, {time.year}",
        "reviewerID": _key("A", int(purchases.user[row])),
        "asin": _key("B", int(purchases.item[row])),
        "reviewerName": name,
        "reviewText": text,
        "summary": summary,
        "unixReviewTime": int(time.timestamp()),
    }


def _metadata_lines(attributes: Attributes, *, seed: int) -> Iterator[str]:
    """Yield the products as JSON, with their dirt."""
    words, pictures = _generator(seed, WORDS_STREAM), _generator(seed, PICTURES_STREAM)
    for item in range(len(attributes.popularity)):
        dirt = _rare_dirt(item)
        picture = draw_picture(**_values(attributes, item, "category", "colour", "pattern"), generator=pictures)
        product = _product(attributes, item, generator=words)
        if dirt != "no picture":
            shown = picture[: len(picture) // 2] if dirt == "half a picture" else picture
            product["imageURLHighRes"] = [f"data:image/png;base64,{base64.b64encode(shown).decode()}"]
        line = json.dumps(product)
        yield line
        if dirt == "two lines":
            yield line
        if dirt == "a line cut short":
            yield line[: len(line) // 2]


def _product(attributes: Attributes, item: int, *, generator: np.random.Generator) -> dict[str, Any]:
    """Return the metadata of an item, without a picture."""
    values = _values(attributes, item, "category", "pursuit", "room")
    wording = word_product(**values, generator=generator)
    title, maker, description = wording.title, wording.maker, " ".join(wording.description)
    if item % HTML_EVERY == 0:
        title, maker = html.escape(title), html.escape(maker)
        first, *others = (html.escape(sentence) for sentence in wording.description)
        description = f"<p><b>{first}</b><br>{'<br />'.join(others)}</p>"
    shelf = CATEGORIES[values["category"]].shelf
    return {
        "category": ["Home & Kitchen", "The Demo Shop", shelf],
        "description": [] if item % UNDESCRIBED_EVERY == 1 else [description],
        "title": title,
        "brand": maker,
        "feature": wording.features,
        "also_buy": [],
        "also_view": [],
        "main_cat": "Home & Kitchen",
        "price": wording.price,
        "asin": _key("B", item),
        "imageURL": [],
        "imageURLHighRes": [],
    }


def _values(attributes: Attributes, item: int, *names: str) -> dict[str, str]:
    """Return the item's values of the named attributes, in words."""
    return {name: VALUES[name][getattr(attributes, name)[item]] for name in names}


def _rare_dirt(item: int) -> str | None:
    place = item % RARE_EVERY - (RARE_EVERY - len(RARE_DIRT))
    return RARE_DIRT[place] if place >= 0 else None


def _key(kind: str, number: int) -> str:
    """Return a key like Amazon's, as in 'B3K8Q0ZV1M': another for each number, in no order."""
    rest, key = (number + 1) * SCATTER % len(DIGITS) ** KEY_DIGITS, ""
    for _ in range(KEY_DIGITS):
        rest, digit = divmod(rest, len(DIGITS))
        key = DIGITS[digit] + key
    return kind + key


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to path, gzipped without a name or a time; the file appears complete or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            packed.writelines(f"{line}\n".encode() for line in lines)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
