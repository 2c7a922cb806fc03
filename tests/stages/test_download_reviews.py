import gzip
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stages.download_reviews import main
from tessera.artifacts import read_json, read_table
from tessera.errors import SourceError
from tessera.schemas import RAW_ITEMS, REVIEWS
from tests.serving import Reply, Server, serving

REVIEW = {"reviewerID": "ann", "asin": "B1", "overall": 4.0, "unixReviewTime": 1529193600}
META = {"asin": "B1", "title": "Drum", "imageURLHighRes": ["https://h/1.jpg"]}
AMAZON = {
    "name": "mine",
    "format": "amazon2018",
    "metadata": None,
    "pictures": None,
    "checksums": {},
    "watch": "conf/unset",
    "max_malformed": 0.0,
    "expected": None,
}
FOLDER = {
    "name": "mine",
    "format": "folder",
    "pictures": "conf/unset",
    "watch": "conf/unset",
    "max_malformed": 0.0,
    "expected": None,
}
PARTS = ("reviews.parquet", "items.parquet", "metrics.json")

Read = Callable[..., tuple[pl.DataFrame, pl.DataFrame, Any]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def read(tmp_path: Path, params_file) -> Read:
    def stage(dataset: dict[str, Any], *, out: str = "out", downloads: Path | None = None):
        paths = [tmp_path / out / part for part in PARTS]
        main(*paths, downloads or tmp_path / "downloads", params_file({"dataset": dataset}))
        return read_table(paths[0], REVIEWS), read_table(paths[1], RAW_ITEMS), read_json(paths[2])

    return stage


def packed(*records: Any) -> bytes:
    return gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode())


def demo(**changes: Any) -> dict[str, Any]:
    shop = {"name": "demo", "format": "demo", "users": 60, "items": 40, "seed": 0, "pictures": None}
    return shop | {"watch": "conf/unset", "max_malformed": 0.01, "expected": None} | changes


def test_the_demo_shop_takes_the_road_of_amazon_2018(read: Read):
    reviews, items, counts = read(demo())
    assert reviews["item_key"].n_unique() == counts["items"]["reviewed"]
    assert items.filter(pl.col("pictures").list.len() > 0).height == counts["items"]["with_pictures"] > 20
    assert items["pictures"].explode().drop_nulls().str.starts_with("data:image/").all()
    assert counts["reviews"]["lines"] == reviews.height + sum(counts["reviews"]["malformed"].values())


def test_the_demo_shop_is_the_same_each_time_and_its_parameters_change_it(read: Read, tmp_path: Path):
    read(demo(), out="one")
    read(demo(), out="two")
    for part in PARTS:
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()
    assert read(demo(users=90))[0].height > read(demo())[0].height
    assert read(demo(items=50))[1].height > 40
    assert not read(demo(seed=1))[0].equals(read(demo())[0])


def test_a_category_from_the_web_is_fetched_once(read: Read, server: Server, tmp_path: Path):
    dataset = AMAZON | {
        "reviews": server.url("reviews.json.gz", Reply(packed(REVIEW, REVIEW | {"asin": "B2"}))),
        "metadata": server.url("meta.json.gz", Reply(packed(META))),
    }
    reviews, items, counts = read(dataset)
    assert reviews["item_key"].to_list() == ["B1", "B2"]
    assert items.rows() == [("B1", "Drum", "", [], ["https://h/1.jpg"])]
    assert counts["reviews"]["kept"] == 2
    assert counts["items"] == {
        "lines": 1,
        "kept": 1,
        "repeated": 0,
        "not_reviewed": 0,
        "malformed": {"no_record": 0, "missing_item": 0, "bad_item": 0},
        "reviewed": 2,
        "with_pictures": 1,
    }
    read(dataset, out="again")
    assert len(server.asked) == 2
    for part in PARTS:
        assert (tmp_path / "out" / part).read_bytes() == (tmp_path / "again" / part).read_bytes()


def test_the_checksum_of_each_source_is_checked(read: Read, server: Server, tmp_path: Path):
    local = tmp_path / "meta.json.gz"
    local.write_bytes(packed(META))
    right = hashlib.sha256(local.read_bytes()).hexdigest()
    dataset = AMAZON | {"reviews": server.url("r", Reply(packed(REVIEW))), "metadata": str(local)}
    assert read(dataset | {"checksums": {"metadata": right}})[1].height == 1
    for name in ("reviews", "metadata"):
        with pytest.raises(SourceError, match="expected SHA-256"):
            read(dataset | {"checksums": {name: "0" * 64}})


@pytest.mark.parametrize(
    ("form", "review"),
    [
        ("amazon2014", REVIEW),
        ("amazon2018", REVIEW),
        ("amazon2023", {"user_id": "ann", "parent_asin": "B1", "rating": 4.0, "timestamp": 1529193600000}),
    ],
)
def test_the_format_decides_how_local_files_are_read(form, review, read: Read, tmp_path: Path):
    path = tmp_path / "reviews.jsonl"
    path.write_text(json.dumps(review) + "\n")
    reviews, items, _ = read(AMAZON | {"format": form, "reviews": str(path)})
    assert reviews.rows() == [("ann", "B1", 1529193600000, 4.0, 0)]
    assert items.rows() == [("B1", "", "", [], [])]


def test_a_share_of_malformed_lines_is_allowed_and_no_more(read: Read, tmp_path: Path):
    path = tmp_path / "reviews.json"
    path.write_text(
        "\n".join([json.dumps(REVIEW), "oops", json.dumps(REVIEW | {"reviewerID": ""}), json.dumps(REVIEW)])
    )
    dataset = AMAZON | {"reviews": str(path)}
    malformed = read(dataset | {"max_malformed": 0.5})[2]["reviews"]["malformed"]
    assert {reason: count for reason, count in malformed.items() if count} == {"no_record": 1, "missing_user": 1}
    with pytest.raises(SourceError, match=r"found 2 of 4 lines; most often no_record: 1, first in line 2"):
        read(dataset | {"max_malformed": 0.49}, out="none")
    assert not (tmp_path / "none").exists()


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "interactions.csv").write_text("user,item,timestamp\n1,1,964982703\n")
    (path / "items.jsonl").write_text('{"item": 1, "title": "Drum", "image": "images/1.jpg"}\n')
    return path


def test_a_folder_reads_the_same_wherever_it_is(read: Read, tmp_path: Path):
    here, there = folder(tmp_path / "here"), folder(tmp_path / "there")
    for path in (here, there):
        read(FOLDER | {"path": str(path), "watch": str(path)}, out=f"out-{path.name}")
    for part in PARTS:
        assert (tmp_path / "out-here" / part).read_bytes() == (tmp_path / "out-there" / part).read_bytes()


def test_a_source_that_nobody_watches_is_warned_of(read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = folder(tmp_path / "mine")
    with caplog.at_level(logging.WARNING, logger="tessera"):
        read(FOLDER | {"path": str(path), "watch": str(path)})
        assert caplog.messages == []
        read(FOLDER | {"path": str(path)})
    assert caplog.messages == [f"{path}: DVC does not see when it changes: set dataset.watch to it, or to its folder"]


def test_experiments_in_a_copy_share_sources_and_downloads(read: Read, server: Server, tmp_path: Path, monkeypatch):
    project = tmp_path / "project"
    copy = project / ".dvc" / "tmp" / "exps" / "tmpcopy"
    copy.mkdir(parents=True)
    (tmp_path / "meta.json").write_text(json.dumps(META))
    dataset = AMAZON | {"reviews": server.url("r", Reply(packed(REVIEW))), "metadata": "../meta.json"}
    for working in (project, copy):
        monkeypatch.chdir(working)
        read(dataset, downloads=Path("downloads"))
    assert len(server.asked) == 1
    assert not (copy / "downloads").exists()
    monkeypatch.chdir(copy)
    folder(tmp_path / "mine")
    assert read(FOLDER | {"path": "../mine"})[0].height == 1


@pytest.mark.parametrize(
    ("dataset", "found"),
    [
        (AMAZON | {"reviews": "none.json.gz"}, "none.json.gz: expected a file, found nothing"),
        (AMAZON | {"reviews": "ftp://h/r.json.gz"}, "expected a path, or a URL of http or https"),
        (FOLDER | {"path": "nowhere"}, "nowhere: expected a folder, found nothing"),
    ],
)
def test_a_source_that_is_not_there(dataset, found, read: Read, tmp_path: Path):
    with pytest.raises(SourceError, match=found):
        read(dataset)
    assert not (tmp_path / "out").exists()


def test_movielens_small(read: Read, shared_data):
    path = str(shared_data("movielens_small"))
    reviews, items, counts = read(FOLDER | {"path": path, "watch": path})
    assert (reviews.height, items.height, counts["items"]["with_pictures"]) == (90274, 3650, 3548)


def test_lines_of_the_same_reviews_in_both_forms_give_the_same_reviews(read: Read, tmp_path: Path):
    rows = [("ann", "B1", 1529193600, 4.0), ("bob", "B2", 1529193700, 2.0)]
    lines = [dict(zip(REVIEW, (user, item, rating, time), strict=True)) for user, item, time, rating in rows]
    (tmp_path / "reviews.json.gz").write_bytes(packed(*lines))
    path = folder(tmp_path / "mine")
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row")
    table.write_csv(path / "interactions.csv")
    (path / "items.jsonl").write_text('{"item": "B1", "title": "Drum"}\n')
    amazon = read(AMAZON | {"reviews": str(tmp_path / "reviews.json.gz")})[0]
    assert_frame_equal(read(FOLDER | {"path": str(path)})[0].drop("row"), amazon.drop("row"))
