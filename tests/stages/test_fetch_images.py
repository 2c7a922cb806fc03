import io
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import polars as pl
import pytest
from PIL import Image

from stages.download_reviews import main as download_reviews
from stages.fetch_images import main
from tessera.artifacts import read_json, read_table, write_table
from tessera.errors import DataError, SourceError
from tessera.items import locks
from tessera.items.locks import one_at_a_time, until_nobody_waits
from tessera.items.picture_parts import STATUSES
from tessera.schemas import IMAGES, RAW_ITEMS, REVIEWS
from tests.pipeline_runs import TEXT_ALONE
from tests.serving import Reply, Server, serving

AMAZON = {
    "name": "mine",
    "format": "amazon2018",
    "reviews": "unread",
    "metadata": None,
    "pictures": None,
    "checksums": {},
    "watch": "conf/unset",
    "max_malformed": 0.0,
    "expected": None,
}
FOLDER = {"name": "mine", "format": "folder", "max_malformed": 0.0, "expected": None}
QUICK = {"images.retries": 0, "images.timeout": 0.5, "filter.k": 2, "filter.min_rating": None}

Fetch = Callable[..., tuple[pl.DataFrame, Any]]


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def fetch(tmp_path: Path, params_file) -> Fetch:
    """Run the stage on three users who all bought items a, b and c, and one who bought d and, once more, a."""

    def stage(pictures: dict[str, list[str]], changes: dict[str, Any], *, downloads: Path | None = None):
        bought = [(user, item, 5.0) for user in "xyz" for item in "abc"] + [("w", "d", 5.0), ("w", "a", 5.0)]
        schema = {name: REVIEWS[name] for name in ("user_key", "item_key", "rating")}
        reviews = pl.DataFrame(bought, schema=schema, orient="row").with_columns(time=pl.lit(0, pl.Int64))
        reviews = reviews.with_row_index("row").cast({"row": pl.UInt64})
        items = pl.DataFrame(
            [(key, "", "", [], urls) for key, urls in pictures.items()], schema=RAW_ITEMS, orient="row"
        )
        write_table(tmp_path / "reviews.parquet", reviews.select(*REVIEWS), REVIEWS)
        write_table(tmp_path / "items.parquet", items, RAW_ITEMS)
        out = tmp_path / "images.parquet", tmp_path / "metrics.json"
        params = params_file({"dataset": AMAZON} | QUICK | changes)
        main(
            tmp_path / "reviews.parquet", tmp_path / "items.parquet", *out, downloads or tmp_path / "downloads", params
        )
        return read_table(out[0], IMAGES), read_json(out[1])

    return stage


def test_only_what_a_first_k_core_keeps_is_fetched(fetch: Fetch, server: Server, tmp_path: Path):
    pictures = {key: [server.url(key, Reply(picture()))] for key in "abcd"}
    pictures["b"] = [server.url("gone", Reply(status=404))]
    del pictures["c"]
    images, counts = fetch(pictures, {})
    assert images.select("key", "status").rows() == [("a", "ok"), ("b", "not_found"), ("c", "missing")]
    assert server.times_asked("d") == 0
    assert counts == {
        "items": 3,
        "share_with_picture": 1 / 3,
        "bytes": len(images["picture"][0]),
        "status": dict.fromkeys(STATUSES, 0) | {"ok": 1, "not_found": 1, "missing": 1},
    }
    assert [path.suffix for path in (tmp_path / "downloads").iterdir()] == [".lock"]


def test_the_filter_decides_which_items_are_fetched(fetch: Fetch):
    assert fetch({}, {"filter.k": 1})[0]["key"].to_list() == ["a", "b", "c", "d"]
    assert fetch({}, {"filter.k": 3})[0]["key"].to_list() == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"filter\.k"):
        fetch({}, {"filter.k": 4})
    with pytest.raises(DataError, match=r"filter\.min_rating"):
        fetch({}, {"filter.min_rating": 5.5})


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"images.max_bytes": 10}, "too_large"),
        ({"images.max_pixels": 100}, "too_many_pixels"),
        ({"images.min_side": 31}, "too_small"),
        ({"images.timeout": 0.05}, "timeout"),
        ({}, "ok"),
    ],
)
def test_each_limit_decides(change, status, fetch: Fetch, server: Server):
    answered = server.url("x", Reply(status=404))
    slow = server.url("a", Reply(picture(), pause=0.2))
    assert fetch({"a": [slow], "b": [answered]}, change)[0]["status"][0] == status


def test_size_quality_retries_and_workers(fetch: Fetch, server: Server):
    noise = io.BytesIO()
    Image.effect_noise((400, 300), 60).save(noise, "PNG")
    address = {"a": [server.url("a", Reply(noise.getvalue()))]}
    usual = fetch(address, {})[0]
    assert (usual["width"][0], usual["height"][0]) == (256, 192)
    assert fetch(address, {"images.longest_side": 100})[0]["width"][0] == 100
    assert len(fetch(address, {"images.quality": 20})[0]["picture"][0]) < len(usual["picture"][0])
    assert fetch(address, {"images.workers": 1})[0].equals(usual)
    server.url("a", Reply(status=500), Reply(noise.getvalue()))
    assert fetch(address, {"images.retries": 1})[0].equals(usual)


def test_files_by_key_go_before_the_web(fetch: Fetch, server: Server, tmp_path: Path, caplog):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(picture("blue"))
    pictures = {key: [server.url(key, Reply(picture()))] for key in "ab"}
    dataset = AMAZON | {"pictures": str(tmp_path / "mine")}
    with caplog.at_level(logging.WARNING, logger="tessera"):
        images, _ = fetch(pictures, {"dataset": dataset | {"watch": str(tmp_path)}})
        assert caplog.messages == []
        fetch(pictures, {"dataset": dataset})
    assert images["detail"][0] == "a.png"
    assert server.times_asked("a") == 0
    assert server.times_asked("b") == 2
    (warning,) = caplog.messages
    assert "set dataset.watch" in warning


def test_paths_start_from_the_folder_of_the_data_set(fetch: Fetch, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(picture())
    here = {"dataset": FOLDER | dict.fromkeys(["path", "pictures", "watch"], str(tmp_path / "mine"))}
    assert fetch({"a": ["1.png"], "b": ["2.png"]}, here)[0]["status"].to_list() == ["ok", "not_found", "missing"]
    assert fetch({"a": [str(tmp_path / "mine" / "1.png")]}, {})[0]["status"][0] == "unsupported"


def test_a_folder_without_the_pictures_is_warned_of(fetch: Fetch, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "mine").mkdir()
    here = {"dataset": FOLDER | dict.fromkeys(["path", "pictures", "watch"], str(tmp_path / "mine"))}
    with caplog.at_level(logging.WARNING, logger="tessera"):
        fetch({"a": ["1.png"], "b": ["2.png"]}, here)
    assert caplog.messages == ["no picture of 3 items could be had; mostly not_found: a: 1.png: no such file"]


def test_failures_that_may_pass_are_warned_of(fetch: Fetch, server: Server, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="tessera"):
        fetch({"a": [server.url("a", Reply(status=500))], "b": [server.url("b", Reply(status=404))]}, {})
    _, warning = caplog.messages
    assert warning.startswith("1 pictures failed")


def test_what_failed_for_what_may_pass_is_all_that_is_tried_again(fetch: Fetch, server: Server, tmp_path: Path):
    pictures = {"a": [server.url("a", Reply(picture()))], "b": [server.url("b", Reply(status=500), Reply(picture()))]}
    assert fetch(pictures, {})[0]["status"].to_list() == ["ok", "http_error", "missing"]
    assert fetch(pictures, {})[0]["status"].to_list() == ["ok", "ok", "missing"]
    assert (server.times_asked("a"), server.times_asked("b")) == (1, 2)
    assert [path.suffix for path in (tmp_path / "downloads").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("changes", "fetched"),
    [
        ({**TEXT_ALONE, "filter.required": []}, 0),
        ({**TEXT_ALONE, "filter.required": ["image"]}, 3),
        ({"modalities": ["text", "image"], "filter.required": []}, 3),
    ],
)
def test_pictures_that_nothing_asks_for_are_not_fetched(fetch: Fetch, server: Server, changes: Any, fetched: int):
    pictures = {key: [server.url(key, Reply(picture()))] for key in "abc"}
    images, counts = fetch(pictures, changes)
    assert images.height == counts["items"] == sum(server.times_asked(key) for key in "abc") == fetched


def test_experiments_at_the_same_time_share_the_work(fetch: Fetch, server: Server, tmp_path: Path, params_file):
    pictures = {key: [server.url(key, Reply(picture(), pause=0.05))] for key in "abc"}
    fetch(pictures, {})
    inputs = [tmp_path / "reviews.parquet", tmp_path / "items.parquet"]
    params = params_file({"dataset": AMAZON} | QUICK)
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(main, *inputs, tmp_path / f"{run}.parquet", tmp_path / f"{run}.json", tmp_path / "both", params)
            for run in range(3)
        ]
        for run in runs:
            run.result()
    tables = {(tmp_path / f"{run}.parquet").read_bytes() for run in range(3)}
    assert tables == {(tmp_path / "images.parquet").read_bytes()}


def test_who_waits_for_pictures_finds_those_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, arrived = tmp_path / "downloads" / "pictures", Semaphore(0)

    def noted(target: Path):
        arrived.release()
        return one_at_a_time(target)

    def found() -> bool:
        with until_nobody_waits(folder) as served:
            served()
            return folder.is_dir()

    monkeypatch.setattr(locks, "one_at_a_time", noted)
    with ThreadPoolExecutor(1) as pool:
        with until_nobody_waits(folder) as served:
            arrived.acquire()
            folder.mkdir()
            other = pool.submit(found)
            arrived.acquire()  # the other one waits from here on
            served()
        assert other.result()
    assert [path.suffix for path in folder.parent.iterdir()] == [".lock"]


def test_without_a_network_there_is_no_table(fetch: Fetch, tmp_path: Path):
    with pytest.raises(SourceError, match="is there a network"):
        fetch({key: ["http://127.0.0.1:9/x"] for key in "abc"}, {})
    assert not (tmp_path / "images.parquet").exists()
    assert not (tmp_path / "metrics.json").exists()


def test_the_same_bytes_each_time(fetch: Fetch, server: Server, tmp_path: Path):
    address = {"a": [server.url("a", Reply(picture()))], "b": [server.url("b", Reply(status=404))]}
    fetch(address, {})
    first = (tmp_path / "images.parquet").read_bytes()
    fetch(address, {})
    assert (tmp_path / "images.parquet").read_bytes() == first


def test_gift_cards(tmp_path: Path, params_file, shared_data):
    folder = shared_data("gift_cards")
    dataset = AMAZON | {
        "reviews": str(folder / "Gift_Cards_5.json.gz"),
        "metadata": None,
        "pictures": str(folder / "images"),
        "watch": str(folder),
    }
    params = params_file({"dataset": dataset, "filter.k": 5, "filter.min_rating": None})
    paths = {name: tmp_path / f"{name}.parquet" for name in ("reviews", "items", "images")}
    download_reviews(paths["reviews"], paths["items"], tmp_path / "m.json", tmp_path / "downloads", params)
    main(*paths.values(), tmp_path / "m.json", tmp_path / "downloads", params)
    images, counts = read_table(paths["images"], IMAGES), read_json(tmp_path / "m.json")
    assert counts["status"]["ok"] + counts["status"]["missing"] == counts["items"] == images.height
    assert images.filter(pl.col("status") == "ok")["detail"].to_list() == [
        f"{key}.jpg" for key in images["key"] if (folder / "images" / f"{key}.jpg").exists()
    ]
    assert (counts["items"], counts["status"]["ok"]) == (147, 114)
