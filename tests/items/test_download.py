import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tessera.errors import SourceError
from tessera.items import web
from tessera.items.download import BLOCK, cache_name, download, obtain
from tessera.items.web import Patience
from tests.serving import Reply, Server, serving

PATIENCE = Patience(timeout=0.3, retries=2, first_wait=0.001)
BODY = bytes(range(256)) * 64
ETAG = {"ETag": '"one"'}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def fetch(url: str, folder: Path, **options) -> Path:
    return download(url, folder, **{"patience": PATIENCE, **options})


def landed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_lands_whole_and_is_fetched_once(server: Server, tmp_path: Path):
    url = server.url("shop/reviews.json.gz", Reply(BODY))
    first = fetch(url, tmp_path / "new")
    assert first.read_bytes() == BODY
    assert fetch(url, tmp_path / "new") == first
    assert server.times_asked("shop/reviews.json.gz") == 1
    assert landed(tmp_path / "new") == [first.name]


def test_files_of_one_name_are_kept_apart_and_within_the_folder(server: Server, tmp_path: Path):
    paths = [fetch(server.url(name, Reply(name.encode())), tmp_path) for name in ("a/x.gz", "b/x.gz")]
    assert [path.read_bytes() for path in paths] == [b"a/x.gz", b"b/x.gz"]
    for url in ("http://h/..%2F..%2Fetc%2Fpasswd", "http://h/", "http://h/" + "x" * 5000):
        name = cache_name(url)
        assert Path(name).name == name
        assert len(name) < 200


def test_goes_on_where_the_connection_broke(server: Server, tmp_path: Path):
    breaks = [Reply(BODY, headers=ETAG, knows_ranges=True, sent=sent) for sent in (1000, 0, 500)]
    url = server.url("x", *breaks, Reply(BODY, headers=ETAG, knows_ranges=True))
    assert fetch(url, tmp_path).read_bytes() == BODY
    assert [headers.get("Range") for _, headers in server.asked] == [None, *["bytes=1000-"] * 2, "bytes=1500-"]
    assert {headers.get("If-Range") for _, headers in server.asked[1:]} == {'"one"'}


def test_goes_on_in_another_run_after_a_kill(server: Server, tmp_path: Path):
    body = BODY * (3 * BLOCK // len(BODY))
    url = server.url("x", Reply(body, headers=ETAG, knows_ranges=True))

    def killed(blocks, **_):
        yield next(iter(blocks))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, tmp_path, progress=killed)
    assert not (tmp_path / cache_name(url)).exists()
    assert fetch(url, tmp_path).read_bytes() == body
    start = int(server.asked[1][1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert BLOCK <= start < len(body)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({}, {}, id="nothing to tell the file by"),
        pytest.param({"ETag": 'W/"one"'}, {"ETag": 'W/"one"'}, id="a weak tag"),
        pytest.param(ETAG, {"ETag": '"two"'}, id="another file since"),
        pytest.param({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Last-Modified": "now"}, id="another date"),
    ],
)
def test_starts_anew_where_it_cannot_be_the_same_file(first, second, server: Server, tmp_path: Path):
    other = BODY[::-1]
    url = server.url("x", Reply(BODY, headers=first, sent=1000), Reply(other, headers=second, knows_ranges=True))
    assert fetch(url, tmp_path).read_bytes() == other


def test_a_part_of_another_file_is_not_appended(server: Server, tmp_path: Path):
    other, two = BODY[::-1], {"ETag": '"two"'}
    lying = Reply(other[1000:], status=206, headers={**two, "Content-Range": f"bytes 1000-{len(BODY) - 1}/{len(BODY)}"})
    url = server.url("x", Reply(BODY, headers=ETAG, sent=1000), lying, Reply(other, headers=two))
    assert fetch(url, tmp_path).read_bytes() == other


@pytest.mark.parametrize("content_range", ["bytes 900-16383/16384", "nonsense", ""])
def test_a_part_from_elsewhere_is_not_appended(content_range: str, server: Server, tmp_path: Path):
    lying = Reply(BODY[900:], status=206, headers={**ETAG, "Content-Range": content_range})
    url = server.url("x", Reply(BODY, headers=ETAG, sent=1000), lying, Reply(BODY, headers=ETAG))
    assert fetch(url, tmp_path).read_bytes() == BODY


def test_starts_anew_where_the_file_has_become_shorter(server: Server, tmp_path: Path):
    url = server.url("x", Reply(BODY, headers=ETAG, sent=1000), Reply(BODY[:500], headers=ETAG, knows_ranges=True))
    assert fetch(url, tmp_path).read_bytes() == BODY[:500]


@pytest.mark.parametrize("failure", [Reply(status=500), Reply(status=429), Reply(status=503), Reply(drops=True)])
def test_tries_again_what_may_pass(failure: Reply, server: Server, tmp_path: Path):
    assert fetch(server.url("x", failure, failure, Reply(BODY)), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("failure", "found"),
    [
        pytest.param(Reply(status=500), "status 500", id="server error"),
        pytest.param(Reply(status=429), "status 429", id="too many requests"),
        pytest.param(Reply(BODY, sent=0), "RemoteProtocolError", id="truncated"),
        pytest.param(Reply(BODY, announced=len(BODY) + 1), "RemoteProtocolError", id="shorter than announced"),
        pytest.param(Reply(BODY, pause=1.0), "no byte in time", id="stalled"),
        pytest.param(Reply(drops=True), "RemoteProtocolError", id="dropped"),
    ],
)
def test_gives_up_after_the_retries_and_leaves_no_file(failure: Reply, found: str, server: Server, tmp_path: Path):
    url = server.url("x", failure)
    with pytest.raises(SourceError, match=f"{url}: expected a whole file, found after 3 tries: .*{found}"):
        fetch(url, tmp_path)
    assert not (tmp_path / cache_name(url)).exists()
    with pytest.raises(SourceError, match="after 1 tries"):
        fetch(url, tmp_path, patience=PATIENCE._replace(retries=0))


def test_headway_brings_new_tries(server: Server, tmp_path: Path):
    breaks = [Reply(BODY, headers=ETAG, sent=100, knows_ranges=True) for _ in range(20)]
    url = server.url("x", *breaks, Reply(BODY, headers=ETAG, knows_ranges=True))
    assert fetch(url, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 204])
def test_a_refusal_is_not_asked_again(status: int, server: Server, tmp_path: Path):
    url = server.url("x", Reply(status=status))
    with pytest.raises(SourceError, match=f"{url}: expected a file, found status {status}"):
        fetch(url, tmp_path)
    assert server.times_asked("x") == 1


def test_a_web_page_is_no_data(server: Server, tmp_path: Path):
    url = server.url("x", Reply(b"<html>Log in!</html>", headers={"Content-Type": "text/html; charset=utf-8"}))
    with pytest.raises(SourceError, match="found a web page"):
        fetch(url, tmp_path)


def test_follows_redirects_but_not_for_ever(server: Server, tmp_path: Path):
    there = Reply(status=302, headers={"Location": server.url("there", Reply(BODY))})
    assert fetch(server.url("here", there), tmp_path).read_bytes() == BODY
    round_and_round = Reply(status=302, headers={"Location": "/circle"})
    with pytest.raises(SourceError, match="redirects"):
        fetch(server.url("circle", round_and_round), tmp_path)
    assert server.times_asked("circle") == web.MOST_REDIRECTS + 1
    with pytest.raises(SourceError, match="expected a file, found"):
        fetch(server.url("out", Reply(status=302, headers={"Location": "file:///etc/passwd"})), tmp_path)


def waits_of(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, *replies: Reply) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    fetch(server.url("x", *replies, Reply(BODY)), folder)
    return slept


def test_waits_as_long_as_the_server_asks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    asking = [Reply(status=429, headers={"Retry-After": value}) for value in ("7", soon)]
    number, date = waits_of(server, tmp_path, monkeypatch, *asking)
    assert number == 7
    assert 50 < date <= 60


def test_waits_longer_each_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    busy = Reply(status=503, headers={"Retry-After": "soon"})
    first, second = waits_of(server, tmp_path, monkeypatch, busy, busy)
    assert second == 2 * first == 2 * PATIENCE.first_wait


def test_does_not_wait_for_hours(server: Server, tmp_path: Path):
    url = server.url("x", Reply(status=429, headers={"Retry-After": "36000"}))
    with pytest.raises(SourceError, match="again only in 36000 s"):
        fetch(url, tmp_path)
    assert server.times_asked("x") == 1


def test_a_checksum_is_checked(server: Server, tmp_path: Path):
    url, right = server.url("x", Reply(BODY)), hashlib.sha256(BODY).hexdigest()
    with pytest.raises(SourceError, match=f"expected SHA-256 {'0' * 64}, found {right}"):
        fetch(url, tmp_path, checksum="0" * 64)
    assert landed(tmp_path) == []
    assert fetch(url, tmp_path, checksum=right.upper()).read_bytes() == BODY


def test_a_copy_that_has_another_checksum_is_fetched_anew(server: Server, tmp_path: Path):
    url = server.url("x", Reply(BODY))
    (tmp_path / cache_name(url)).write_bytes(b"stale")
    assert fetch(url, tmp_path, checksum=hashlib.sha256(BODY).hexdigest()).read_bytes() == BODY


def test_tells_how_far_it_is(server: Server, tmp_path: Path):
    told = []

    def progress(blocks, *, title, total):
        told.append((title, total))
        return blocks

    fetch(server.url("a/meta.gz", Reply(bytes(2 * BLOCK + 1))), tmp_path, progress=progress)
    assert told == [("meta.gz, MiB", 2)]


def test_a_server_that_is_not_there(tmp_path: Path):
    with pytest.raises(SourceError, match="ConnectError"):
        fetch("http://127.0.0.1:9/x", tmp_path)


@pytest.mark.parametrize("url", ["http://[", "https://", "http:///x", "http://exa mple/x", "http://h:port/x"])
def test_a_url_that_is_none(url: str, tmp_path: Path):
    with pytest.raises(SourceError):
        fetch(url, tmp_path, patience=PATIENCE._replace(retries=0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises((SourceError, PermissionError)):
        fetch(server.url("x", Reply(BODY)), tmp_path)


def test_obtain_takes_paths_and_urls_and_nothing_else(server: Server, tmp_path: Path):
    here = tmp_path / "here.json"
    here.write_bytes(BODY)
    right = hashlib.sha256(BODY).hexdigest()
    assert obtain(str(here), downloads=tmp_path / "cache", checksum=right) == here
    assert not (tmp_path / "cache").exists()
    assert obtain(server.url("x", Reply(BODY)), downloads=tmp_path / "cache").parent == tmp_path / "cache"
    for source, found in [
        (str(tmp_path / "none"), "expected a file, found nothing"),
        (str(tmp_path), "expected a file, found a folder"),
        ("ftp://host/x", "a URL of http or https"),
        ("file:///etc/passwd", "a URL of http or https"),
    ]:
        with pytest.raises(SourceError, match=found):
            obtain(source, downloads=tmp_path / "cache")
    with pytest.raises(SourceError, match="expected SHA-256 0, found"):
        obtain(str(here), downloads=tmp_path, checksum="0")
