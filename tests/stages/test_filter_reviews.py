import gzip
import json
import random

import polars as pl
import pytest

from stages.filter_reviews import main
from tessera.artifacts import read_table, write_table
from tessera.errors import DataError, ParamsError, TableError
from tessera.schemas import IMAGES, INTERACTIONS, ITEMS, RAW_ITEMS, REVIEWS, USERS

NOTHING_REQUIRED = {"filter.required": []}
KNOWN = {"users": 17_112, "items": 6_250, "interactions": 136_226}


def reviews(rows):
    """Reviews of (user, item, time, rating)."""
    schema = {name: REVIEWS[name] for name in ("user_key", "item_key", "time", "rating")}
    return pl.DataFrame(rows, schema=schema, orient="row").with_row_index("row").cast({"row": pl.UInt64})


class Shop:
    """A folder with the stage's inputs, and what the stage makes of them."""

    def __init__(self, folder, params_file):
        self.folder, self.params_file = folder, params_file

    def path(self, name):
        return self.folder / f"{name}.parquet"

    def stock(self, *, rows, texts=None, pictures=None):
        """Write reviews, items by key and title, and pictures by key and status."""
        items = [(key, title, "", [], []) for key, title in (texts or {}).items()]
        images = [(key, b"", 1, 1, status, "") for key, status in (pictures or {}).items()]
        write_table(self.path("reviews"), reviews(rows), REVIEWS)
        write_table(self.path("items"), pl.DataFrame(items, schema=RAW_ITEMS, orient="row"), RAW_ITEMS)
        write_table(self.path("images"), pl.DataFrame(images, schema=IMAGES, orient="row"), IMAGES)

    def filter(self, changes):
        outputs = ("interactions", "kept_items", "users")
        inputs = [self.path(name) for name in ("reviews", "items", "images")]
        metrics = self.folder / "metrics.json"
        main(*inputs, *map(self.path, outputs), metrics, self.params_file(changes))
        schemas = (INTERACTIONS, ITEMS, USERS)
        tables = [read_table(self.path(name), schema) for name, schema in zip(outputs, schemas, strict=True)]
        return *tables, json.loads(metrics.read_text())


@pytest.fixture
def shop(tmp_path, params_file):
    return Shop(tmp_path, params_file)


@pytest.fixture
def square(shop):
    """Users A, B and C each with items x, y and z at one day; A has x twice, C likes z less, and w is bought once."""
    rows = [(user, item, 5, 5.0) for user in "CAB" for item in "yxz"]
    rows[2] = ("C", "z", 5, 2.0)
    rows += [("A", "w", 1, 5.0), ("A", "x", 9, 5.0)]
    shop.stock(
        rows=rows,
        texts={"x": "The &quot;X&quot;", "y": "<b>Y</b>", "w": "W"},
        pictures={"x": "ok", "y": "ok", "z": "failed"},
    )
    return shop


def test_the_tables_fit_together(square):
    interactions, items, users, metrics = square.filter({"filter.k": 2, "filter.required": []})
    assert users.rows() == [(0, "A", 3), (1, "B", 3), (2, "C", 3)]
    assert items.rows() == [
        (0, "x", 'The "X"', "", [], True, 3),
        (1, "y", "Y", "", [], True, 3),
        (2, "z", "", "", [], False, 3),
    ]
    assert interactions["user"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert interactions["position"].to_list() == [0, 1, 2] * 3
    assert interactions["split"].to_list() == ["train", "valid", "test"] * 3
    assert metrics == {
        "users": 3,
        "items": 3,
        "interactions": 9,
        "sparsity": 0,
        "average_length": 3,
        "tie_rate": 1,
        "splits": {"train": 3, "valid": 3, "test": 3},
        "dropped": {
            "below_min_rating": {"users": 0, "items": 0, "interactions": 0},
            "repeats": {"users": 0, "items": 0, "interactions": 1},
            "k_core": {"users": 0, "items": 1, "interactions": 1},
            "k_core_of_rest": {"users": 0, "items": 0, "interactions": 0},
        },
        "lacking": {"metadata": 1, "text": 1, "image": 1},
        "expected": {},
    }


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (3, 3, 9)),
        ({"filter.k": 1}, (3, 4, 10)),
        ({"filter.required": ["image"]}, (3, 2, 6)),
        ({"filter.required": ["text", "image"]}, (3, 2, 6)),
        ({"filter.k": 1, "filter.required": ["text"]}, (3, 3, 7)),
        ({"filter.min_rating": 3.0}, (3, 3, 8)),
        ({"filter.k": 3, "filter.min_rating": 3.0}, None),
    ],
)
def test_each_parameter_decides_who_stays(square, changes, sizes):
    parameters = {"filter.k": 2, "filter.required": [], **changes}
    if sizes is None:
        with pytest.raises(DataError, match=r"^filter.k = 3: expected interactions to be left, found 0 of 3 users"):
            square.filter(parameters)
        assert not square.path("interactions").exists()
        return
    interactions, items, users, metrics = square.filter(parameters)
    assert (users.height, items.height, interactions.height) == sizes
    assert (metrics["users"], metrics["items"], metrics["interactions"]) == sizes


def test_the_tie_rule_decides_the_order_of_a_day(square):
    orders = {}
    for ties in ("hash", "file_order"):
        interactions, items, _, _ = square.filter({"filter.k": 2, "filter.required": [], "filter.ties": ties})
        named = interactions.join(items, on="item", maintain_order="left")
        orders[ties] = ["".join(keys) for keys in named.group_by("user", maintain_order=True).agg("key")["key"]]
    assert orders["file_order"] == ["yxz", "yxz", "yxz"]
    assert orders["hash"] != orders["file_order"]


@pytest.fixture
def street(shop):
    """Twenty users who each buy all of ten items, one a day, from a day of their own on."""
    shop.stock(rows=[(f"u{user:02}", f"i{item}", user + item, 5.0) for user in range(20) for item in range(10)])
    return shop


STREET = {"filter.k": 2, "filter.required": []}


def test_a_split_by_time_is_one_for_all_users_and_its_points_are_told(street):
    split = {"filter.split": "time", "filter.valid_from": 0.5, "filter.test_from": 0.75}
    interactions, _, _, metrics = street.filter(STREET | split)
    assert (metrics["valid_from"], metrics["test_from"]) == (14, 19)
    assert interactions.filter(split="train")["time"].max() == 13
    assert interactions.filter(split="valid").select("user", "time").rows() == [(user, 14) for user in range(5, 14)]
    assert interactions.filter(split="test").select("user", "time").rows() == [(user, 19) for user in range(10, 19)]
    assert metrics["splits"] == {split: interactions.filter(split=split).height for split in metrics["splits"]}
    usual, _, _, _ = street.filter(STREET)
    assert interactions.drop("split").equals(usual.drop("split"))


def test_cold_items_are_of_the_share_and_keep_their_place(street):
    usual, items, _, _ = street.filter(STREET)
    targets = pl.col("split").is_in(["valid", "test"])
    trained = {}
    for share in (0.0, 0.2, 0.5):
        interactions, same_items, _, metrics = street.filter(STREET | {"filter.cold_items": share})
        assert same_items.equals(items)
        assert interactions.drop("split").equals(usual.drop("split"))
        assert interactions.filter(targets).equals(usual.filter(targets))
        assert metrics.get("cold_items", 0) == 10 * share
        assert metrics["splits"].get("rest", 0) == interactions.filter(split="rest").height
        trained[share] = set(interactions.filter(split="train")["item"])
    assert trained[0.5] < trained[0.2] < trained[0.0]


def test_known_counts_that_differ_are_told_with_both_numbers(square, caplog):
    expected = {"users": 3, "items": 4, "interactions": 9}
    folder = {
        "name": "mine",
        "format": "folder",
        "path": "x",
        "pictures": "x",
        "watch": "x",
        "max_malformed": 0.0,
        "expected": expected,
    }
    _, _, _, metrics = square.filter({"filter.k": 2, "filter.required": [], "dataset": folder})
    assert [record.getMessage() for record in caplog.records] == ["mine: expected 4 items, found 3"]
    assert (metrics["items"], metrics["expected"]) == (3, expected)


def test_errors_name_what_is_wrong_and_leave_no_file(square):
    with pytest.raises(ParamsError, match=r"^filter.required: expected modalities of .* found 'sound'$"):
        square.filter({"filter.k": 2, "filter.required": ["sound"]})
    with pytest.raises(DataError, match=r"^filter.k = 5: .* found 0 of 3 users, 4 items, 10 interactions$"):
        square.filter({"filter.k": 5})
    square.path("images").unlink()
    with pytest.raises(TableError, match="expected a file, found nothing"):
        square.filter({"filter.k": 2})
    written = {path.name for path in square.folder.iterdir()}
    assert written == {"reviews.parquet", "items.parquet", "params.yaml"}


def test_the_same_reviews_in_another_order_give_the_same_files(shop):
    draw = random.Random(0)
    rows = [(f"u{draw.randrange(30)}", f"i{draw.randrange(20)}", draw.randrange(3), 5.0) for _ in range(400)]
    files = []
    for _ in range(2):
        shop.stock(rows=rows, texts={"i1": "one"}, pictures={f"i{item}": "ok" for item in range(15)})
        shop.filter({"filter.k": 4})
        files.append([shop.path(name).read_bytes() for name in ("interactions", "kept_items", "users")])
        draw.shuffle(rows)
    assert files[0] == files[1]


def test_instruments_has_the_published_counts(shared_data, shop):
    with gzip.open(shared_data("instruments") / "Musical_Instruments.json.gz") as file:
        raw = pl.read_ndjson(file.read())
    shop.stock(rows=raw.select("reviewerID", "asin", "unixReviewTime", "overall").rows())
    interactions, items, users, metrics = shop.filter(NOTHING_REQUIRED)
    assert {what: metrics[what] for what in KNOWN} == KNOWN
    assert (users.height, items.height, interactions.height) == tuple(KNOWN.values())
    assert metrics["average_length"] == pytest.approx(7.96, abs=0.005)
    assert metrics["splits"] == {"train": 102_002, "valid": 17_112, "test": 17_112}
