import base64
import gzip
import io
import json
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.errors import ParamsError
from tessera.items import demo
from tessera.items.demo import VALUES, Attributes, Purchases, go_shopping, hidden_attributes, write_demo

USERS, ITEMS, SEED = 250, 200, 5
SEEN_BY = {"text": ("category", "pursuit", "room"), "image": ("category", "colour", "pattern")}


class Dump(NamedTuple):
    """What the lines of a file hold, and the lines that hold nothing."""

    records: list[dict[str, Any]]
    unreadable: list[str]


def read(path: Path) -> Dump:
    dump = Dump([], [])
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        try:
            dump.records.append(json.loads(line))
        except ValueError:
            dump.unreadable.append(line)
    return dump


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    write_demo(path, users=USERS, items=ITEMS, seed=SEED)
    return path


@pytest.fixture(scope="module")
def reviews(folder: Path) -> Dump:
    return read(folder / "reviews.json.gz")


@pytest.fixture(scope="module")
def metadata(folder: Path) -> Dump:
    return read(folder / "meta.json.gz")


@pytest.fixture(scope="module")
def attributes() -> Attributes:
    return hidden_attributes(items=600, seed=SEED)


@pytest.fixture(scope="module")
def purchases(attributes: Attributes) -> Purchases:
    return go_shopping(attributes, users=2000, generator=np.random.default_rng(SEED))


def histories(purchases: Purchases) -> list[np.ndarray]:
    return np.split(purchases.item, np.flatnonzero(np.diff(purchases.user)) + 1)


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    write_demo(tmp_path, users=USERS, items=ITEMS, seed=SEED)
    for name in ("reviews.json.gz", "meta.json.gz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_nothing_but_the_two_files_is_left(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json.gz", "reviews.json.gz"]


def test_each_argument_changes_what_it_should(tmp_path):
    shop = {"users": 20, "items": 12, "seed": 0}
    variants = {"base": {}, "users": {"users": 21}, "items": {"items": 13}, "seed": {"seed": 1}}
    for name, change in variants.items():
        write_demo(tmp_path / name, **(shop | change))
    found = {
        name: (read(tmp_path / name / "reviews.json.gz").records, read(tmp_path / name / "meta.json.gz").records)
        for name in variants
    }
    assert len({review["reviewerID"] for review in found["users"][0]}) == 21
    assert found["users"][1] == found["base"][1]
    assert len({product["asin"] for product in found["items"][1]}) == 13
    for ours, others in zip(found["seed"], found["base"], strict=True):
        assert ours != others


@pytest.mark.parametrize("change", [{"users": 0}, {"items": 0}, {"seed": -1}])
def test_impossible_shops_are_refused(tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(ParamsError, match=f"dataset.{name}: expected at least {value + 1}, found {value}"):
        write_demo(tmp_path / "shop", **({"users": 3, "items": 3, "seed": 0} | change))
    assert not (tmp_path / "shop").exists()


def test_reviews_are_in_the_raw_form(reviews, metadata):
    asins = {product["asin"] for product in metadata.records}
    for review in reviews.records:
        assert review["asin"] in asins
        assert review["overall"] in {1.0, 2.0, 3.0, 4.0, 5.0}
        time = datetime.fromtimestamp(review["unixReviewTime"], UTC)
        assert (time.hour, time.minute, time.second) == (0, 0, 0)
        assert review["reviewTime"] == f"{time.month:02d} {time.day}, {time.year}"
        assert {"reviewerID", "reviewerName", "summary", "verified"} <= review.keys()


def test_reviews_hold_the_known_amounts_of_dirt(reviews):
    pairs = Counter((review["reviewerID"], review["asin"]) for review in reviews.records)
    lines = Counter(json.dumps(review, sort_keys=True) for review in reviews.records)
    bought = len(pairs)
    assert sum(count > 1 for count in lines.values()) == bought // demo.DOUBLED_EVERY
    assert len(reviews.records) == bought + bought // demo.DOUBLED_EVERY + bought // demo.REWRITTEN_EVERY
    assert len(reviews.unreadable) == bought // demo.CUT_EVERY > 0
    assert any("reviewText" not in review for review in reviews.records)


def test_a_repeated_review_is_of_the_same_day(reviews):
    days = {(review["reviewerID"], review["asin"], review["unixReviewTime"]) for review in reviews.records}
    assert len(days) == len({day[:2] for day in days})


def test_metadata_is_in_the_raw_form(metadata):
    for product in metadata.records:
        assert len(product["asin"]) == 10
        for name in ("category", "description", "feature", "imageURL", "imageURLHighRes"):
            assert isinstance(product[name], list), name
        assert product["title"]
        assert product["price"].startswith("$")


def test_metadata_holds_the_known_amounts_of_dirt(metadata):
    products = {product["asin"]: product for product in metadata.records}
    assert len(products) == ITEMS
    assert len(metadata.records) == ITEMS + 1
    assert len(metadata.unreadable) == 1
    assert sum(not product["description"] for product in products.values()) == ITEMS // demo.UNDESCRIBED_EVERY
    in_html = [product for product in products.values() if "<br" in "".join(product["description"])]
    assert len(in_html) == ITEMS // demo.HTML_EVERY
    assert any("&#x27;" in product["title"] for product in in_html)
    assert any("&amp;" in product["brand"] for product in in_html)


def test_all_pictures_decode_but_one_missing_and_one_cut_short(metadata):
    products = {product["asin"]: product["imageURLHighRes"] for product in metadata.records}
    cut = 0
    for (url,) in filter(None, products.values()):
        kind, picture = url.split(",", 1)
        assert kind == "data:image/png;base64"
        try:
            Image.open(io.BytesIO(base64.b64decode(picture))).load()
        except OSError:
            cut += 1
    assert (cut, sum(not urls for urls in products.values())) == (1, 1)


def test_a_small_shop_has_no_rare_dirt(tmp_path):
    write_demo(tmp_path, users=4, items=30, seed=0)
    metadata = read(tmp_path / "meta.json.gz")
    assert not metadata.unreadable
    assert len(metadata.records) == sum(len(product["imageURLHighRes"]) for product in metadata.records) == 30


def test_keys_differ_and_follow_no_order():
    keys = [demo._key("B", number) for number in range(5000)]
    assert len(set(keys)) == 5000
    assert np.mean([first < second for first, second in pairwise(keys)]) == pytest.approx(0.5, abs=0.2)


def test_values_are_dealt_evenly(attributes):
    for name, values in VALUES.items():
        counts = np.bincount(getattr(attributes, name), minlength=len(values))
        assert counts.max() - counts.min() <= 1


def test_no_attribute_tells_of_another():
    attributes = hidden_attributes(items=20_000, seed=SEED)
    for first in VALUES:
        for second in set(VALUES) - {first}:
            table = np.zeros((len(VALUES[first]), len(VALUES[second])))
            np.add.at(table, (getattr(attributes, first), getattr(attributes, second)), 1)
            expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            cramers_v = np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1))
            assert cramers_v < 0.03, (first, second)


@settings(max_examples=30, deadline=None)
@given(users=st.integers(1, 12), items=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_nobody_buys_a_product_twice_nor_goes_back_in_time(users, items, seed):
    attributes = hidden_attributes(items=items, seed=seed)
    user, item, day = go_shopping(attributes, users=users, generator=np.random.default_rng(seed))
    assert len(set(zip(user, item, strict=True))) == len(user)
    assert set(user) == set(range(users))
    assert item.min() >= 0
    assert item.max() < items
    assert (np.diff(user) >= 0).all()
    assert (np.diff(day)[np.diff(user) == 0] >= 0).all()
    counts = np.bincount(user)
    assert counts.min() >= min(demo.FEWEST, items)
    assert counts.max() <= min(demo.MOST, items)


def test_blocks_cover_every_shopper(monkeypatch):
    attributes = hidden_attributes(items=50, seed=0)
    monkeypatch.setattr(demo, "BLOCK_CELLS", 200)
    user, _, _ = go_shopping(attributes, users=7, generator=np.random.default_rng(0))
    assert (np.bincount(user) >= demo.FEWEST).all()
    assert len(np.bincount(user)) == 7


def test_default_shop_is_nearly_a_5_core(purchases):
    assert 8 <= len(purchases.user) / 2000 <= 10
    assert (np.bincount(purchases.item, minlength=600) >= 5).mean() > 0.98


def test_what_comes_next_shows_in_the_product_before(attributes, purchases):
    follows = (np.diff(purchases.user) == 0) & (np.diff(purchases.day) > 0)
    for name in ("pursuit", "colour"):
        values = getattr(attributes, name)[purchases.item]
        step = np.diff(values)[follows] % len(VALUES[name])
        assert (step == 1).mean() > 0.7, name
        assert (step == len(VALUES[name]) - 1).mean() < 0.1, name


def test_rooms_and_patterns_persist(attributes, purchases):
    for name in ("room", "pattern"):
        values = getattr(attributes, name)[purchases.item]
        apart = 3
        same_user = purchases.user[apart:] == purchases.user[:-apart]
        assert (values[apart:] == values[:-apart])[same_user].mean() > 2.5 / len(VALUES[name]), name


def test_products_of_one_day_are_in_no_order(attributes, purchases):
    together = (np.diff(purchases.user) == 0) & (np.diff(purchases.day) == 0)
    assert together.sum() / (np.diff(purchases.user) == 0).sum() == pytest.approx(demo.SAME_DAY, abs=0.02)
    for name in ("pursuit", "colour", "category"):
        step = np.diff(getattr(attributes, name)[purchases.item])[together] % len(VALUES[name])
        forth, back = (step == 1).mean(), (step == len(VALUES[name]) - 1).mean()
        assert forth == pytest.approx(back, abs=0.04), name


def next_shares(attributes: Attributes, shopped: list[np.ndarray], name: str) -> np.ndarray:
    """Return how often each value follows each value of the attribute in training: (values, values)."""
    values, counts = getattr(attributes, name), np.full((len(VALUES[name]),) * 2, 0.5)
    for history in shopped:
        np.add.at(counts, (values[history[:-3]], values[history[1:-2]]), 1)
    return counts / counts.sum(1, keepdims=True)


def hit_rate(attributes: Attributes, purchases: Purchases, names: tuple[str, ...]) -> float:
    """Return HR@10 of the last purchases by popularity and by counting what follows what, in the named attributes."""
    shopped = histories(purchases)
    popularity = np.bincount(np.concatenate([history[:-2] for history in shopped]), minlength=600) + 1
    followed = {name: next_shares(attributes, shopped, name) for name in names}
    hits = 0
    for history in shopped:
        past, target, score = history[:-1], history[-1], np.log(popularity)
        for name in names:
            values = getattr(attributes, name)
            if name in demo.TASTES:
                had = np.bincount(values[past], minlength=len(VALUES[name])) + 0.3
                score = score + 1.5 * np.log(had)[values]
            else:
                score = score + np.log(followed[name][values[past[-1]]])[values]
        hits += (score > score[target]).sum() < 10
    return hits / len(shopped)


def test_text_and_picture_each_tell_much_and_together_more(attributes, purchases):
    popularity = hit_rate(attributes, purchases, ())
    text, image = (hit_rate(attributes, purchases, SEEN_BY[modality]) for modality in ("text", "image"))
    both = hit_rate(attributes, purchases, tuple(VALUES))
    assert popularity < 0.07
    assert min(text, image) > max(0.3, 5 * popularity)
    assert abs(text - image) < 0.08
    assert both > 1.4 * max(text, image)
