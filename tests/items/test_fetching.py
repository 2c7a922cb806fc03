import base64
import gzip
import io
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tessera.errors import SourceError
from tessera.items import fetching
from tessera.items.fetching import Fetcher, Tried, content_of_data_url, picture_files
from tessera.items.pictures import Limits, UnusableError, normalised
from tessera.items.web import Patience, answer, new_client, pieces_of
from tests.serving import Reply, Server, serving

LIMITS = Limits(max_bytes=100_000, max_pixels=10_000, min_side=16, longest_side=32, quality=80)
PATIENCE = Patience(timeout=0.3, retries=1, first_wait=0.001)
NOWHERE = "http://127.0.0.1:9/x.jpg"


def picture(colour: str = "red", size: tuple[int, int] = (40, 30), form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


RED, BLUE = picture("red"), picture("blue")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def fetch(tmp_path: Path) -> Iterator[Callable[..., Tried]]:
    def fetched(*addresses: str, files=None, root=tmp_path, patience=PATIENCE, limits=LIMITS, key="B1") -> Tried:
        with Fetcher(files=files or {}, root=root, limits=limits, patience=patience, workers=2) as fetcher:
            return fetcher.fetch(key, addresses)

    return fetched


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_the_first_usable_picture_is_taken(fetch, server: Server):
    red, blue = server.url("red", Reply(RED)), server.url("blue", Reply(BLUE))
    assert fetch(red, blue) == (normalised(RED, limits=LIMITS), "ok", red)
    assert fetch(server.url("none"), blue) == (normalised(BLUE, limits=LIMITS), "ok", blue)
    assert server.times_asked("blue") == 1


def test_an_item_without_addresses(fetch):
    assert fetch() == (None, "missing", "the source names no picture")


def test_where_all_fail_the_first_gives_the_status_and_all_are_told_of(fetch, server: Server):
    tried = fetch(server.url("gone", Reply(status=410)), server.url("page", Reply(b"<html>")), "no.jpg")
    assert tried.picture is None
    assert tried.status == "not_found"
    assert [part.split(": ")[1] for part in tried.detail.split("; ")] == [
        "status 410 Gone",
        "no picture",
        "no such file",
    ]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(status=404), "not_found"),
        (Reply(status=410), "not_found"),
        (Reply(status=401), "forbidden"),
        (Reply(status=403), "forbidden"),
        (Reply(status=418), "http_error"),
        (Reply(status=500), "http_error"),
        (Reply(status=429), "http_error"),
        (Reply(status=429, headers={"Retry-After": "99999"}), "http_error"),
        (Reply(status=302, headers={"Location": "/x"}), "http_error"),
        (Reply(status=302, headers={"Location": "file:///etc/passwd"}), "unsupported"),
        (Reply(RED, pause=1.0), "timeout"),
        (Reply(drops=True), "unreachable"),
        (Reply(RED, sent=50), "unreachable"),
        (Reply(RED, announced=len(RED) + 5), "unreachable"),
        (Reply(RED, headers={"Content-Encoding": "gzip"}), "unreachable"),
        (Reply(RED[:50]), "undecodable"),
        (Reply(b""), "undecodable"),
        (Reply(b"<html>no</html>", headers={"Content-Type": "image/jpeg"}), "undecodable"),
        (Reply(picture(size=(1, 1))), "too_small"),
        (Reply(picture(size=(200, 200))), "too_many_pixels"),
        (Reply(bytes(200_000)), "too_large"),
    ],
)
def test_every_failure_has_a_status(reply: Reply, status: str, fetch, server: Server):
    tried = fetch(server.url("x", reply))
    assert (tried.picture, tried.status) == (None, status)
    assert server.address in tried.detail


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "X-GZIP"])
def test_a_packed_answer_is_unpacked_though_nobody_asked_for_one(encoding: str, fetch, server: Server):
    content = zlib.compress(RED) if encoding == "deflate" else gzip.compress(RED)
    url = server.url("x", Reply(content, headers={"Content-Encoding": encoding}))
    assert fetch(url) == (normalised(RED, limits=LIMITS), "ok", url)
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


def test_what_unpacks_to_far_more_than_is_allowed_is_never_held(fetch, server: Server):
    megabytes = 64
    url = server.url("x", Reply(gzip.compress(bytes(megabytes * 2**20)), headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        assert fetch(url).status == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_the_body_of_a_redirect_is_not_read(fetch, server: Server):
    blue = server.url("blue", Reply(BLUE))
    packed = {"Location": blue, "Content-Encoding": "gzip"}
    bomb = Reply(gzip.compress(bytes(64 * 2**20)), status=302, headers=packed)
    drip = Reply(bytes(100), status=302, headers={"Location": blue}, pause=0.2, pieces=100)
    tracemalloc.start()
    try:
        assert fetch(server.url("bomb", bomb)).status == "ok"
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    begun = time.monotonic()
    assert fetch(server.url("drip", drip)).status == "ok"
    assert time.monotonic() - begun < 10


def test_a_redirect_keeps_its_connection(server: Server):
    blue = server.url("blue", Reply(BLUE))
    with new_client(PATIENCE) as client:
        for body in (b"", b"<html>moved</html>"):
            url = server.url("moved", Reply(body, status=302, headers={"Location": blue}))
            with answer(client, url) as response:
                port = response.extensions["network_stream"].get_extra_info("client_addr")
                assert b"".join(pieces_of(response)) == BLUE
            with answer(client, url) as response:
                assert response.extensions["network_stream"].get_extra_info("client_addr") == port


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd"])
def test_other_packings_are_refused(encoding: str, fetch, server: Server):
    tried = fetch(server.url("x", Reply(RED, headers={"Content-Encoding": encoding})))
    assert tried.status == "unsupported"
    assert f"found {encoding}" in tried.detail


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(status=429), Reply(drops=True), Reply(RED, sent=9)])
def test_tries_again_what_may_pass(reply: Reply, fetch, server: Server):
    assert fetch(server.url("x", reply, Reply(RED))).status == "ok"
    assert fetch(server.url("y", reply, Reply(RED)), patience=PATIENCE._replace(retries=0)).status != "ok"


def test_a_refusal_is_not_asked_again(fetch, server: Server):
    fetch(server.url("x", Reply(status=404)))
    assert server.times_asked("x") == 1


def test_the_timeout_decides(fetch, server: Server):
    slow = server.url("x", Reply(RED, pause=0.2))
    assert fetch(slow).status == "ok"
    assert fetch(slow, patience=Patience(timeout=0.05, retries=0)).status == "timeout"


def test_reading_stops_when_there_is_too_much(fetch, server: Server):
    begun = time.monotonic()
    assert fetch(server.url("x", Reply(bytes(300_000), pieces=100, pause=0.05))).status == "too_large"
    assert time.monotonic() - begun < 4  # all of it would take 5 s


def test_a_server_that_drips_for_ever_is_left(fetch, server: Server):
    drip = server.url("x", Reply(RED * 20, pieces=100, pause=0.03))
    assert fetch(drip, patience=Patience(timeout=0.1, retries=0)).status == "timeout"


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/x.jpg",
        "file:///etc/passwd",
        "http://[",
        "http://",
        "http://h:port/",
        "http://" + "a" * 300 + "/",
        "https://ex ample/\0",
        "https://xn--a/",
        "data:image/png;base64",
    ],
)
def test_addresses_that_are_none(address: str, fetch):
    assert fetch(address).status in {"unsupported", "unreachable"}


def test_data_urls(fetch):
    assert fetch(data_url(RED)) == (normalised(RED, limits=LIMITS), "ok", "a data: URL")
    assert fetch("DATA" + data_url(RED).removeprefix("data")).status == "ok"
    assert fetch("data:image/png;base64,oops!").status == "undecodable"
    assert fetch(data_url(bytes(LIMITS.max_bytes + 1))).status == "too_large"
    assert fetch("data:" + "x" * LIMITS.max_bytes * 4).status == "too_large"


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:,a%20b", b"a b"),
        ("data:text/plain;BASE64,YSBi", b"a b"),
        ("data:;base64,YSBi%0A".replace("%0A", ""), b"a b"),
        ("data:;base64,YSBi%0A", b"a b"),
        ("data:;base64, YS\nBi\r\n", b"a b"),
        ("DATA:;base64,YSBiYw", b"a bc"),
        ("data:;base64,YSBiYw==", b"a bc"),
        ("data:,", b""),
        ("data:,a,b", b"a,b"),
    ],
)
def test_content_of_data_urls(url: str, content: bytes):
    assert content_of_data_url(url, max_bytes=100) == content


def test_a_data_url_without_a_comma():
    with pytest.raises(UnusableError, match="comma"):
        content_of_data_url("data:image/png", max_bytes=100)


def test_paths_start_from_the_root(fetch, tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(RED)
    assert fetch("images/1.png").detail == "images/1.png"
    assert fetch(str(tmp_path / "images" / "1.png")).status == "ok"
    assert fetch("images/2.png").status == "not_found"
    assert fetch("images").status == "not_found"
    assert fetch("images/1.png", limits=LIMITS._replace(max_bytes=10)).status == "too_large"
    assert fetch("nul\0").status in {"not_found", "forbidden"}
    assert fetch("x" * 5000).status in {"not_found", "forbidden"}


def test_paths_do_not_leave_the_root(fetch, tmp_path: Path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "secret.png").write_bytes(RED)
    for path in ("../secret.png", "images/../../secret.png", str(tmp_path / "secret.png"), "/etc/hostname"):
        assert fetch(path, root=tmp_path / "shop").status == "unsupported"
    (tmp_path / "shop" / "1.png").write_bytes(RED)
    assert fetch("images/../1.png", root=tmp_path / "shop").status == "ok"


@pytest.mark.parametrize("root", [".", "..", "inner/.."])
def test_paths_do_not_leave_a_root_that_is_relative(root: str, fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "shop" / "here"
    (place / "inner").mkdir(parents=True)
    monkeypatch.chdir(place)
    for known in (place, tmp_path / "shop", tmp_path):
        (known / "1.png").write_bytes(RED)
    assert fetch("1.png", root=Path(root)).status == "ok"
    assert fetch("../1.png", root=Path(root)).status == "unsupported"
    assert fetch(str(tmp_path / "1.png"), root=Path(root)).status == "unsupported"


def test_without_a_root_no_path_is_opened(fetch, tmp_path: Path):
    (tmp_path / "1.png").write_bytes(RED)
    assert fetch(str(tmp_path / "1.png"), root=None).status == "unsupported"


def test_the_file_of_a_key_goes_first(fetch, tmp_path: Path, server: Server):
    for name in ("B1.png", "B1.jpg", "B2.webp", "B3.txt", "B4.jpeg", "jpg"):
        (tmp_path / name).write_bytes(BLUE)
    (tmp_path / "B5.jpg").mkdir()
    files = picture_files(tmp_path)
    assert {key: path.name for key, path in files.items()} == {"B1": "B1.jpg", "B2": "B2.webp", "B4": "B4.jpeg"}
    red = server.url("red", Reply(RED))
    assert fetch(red, files=files) == (normalised(BLUE, limits=LIMITS), "ok", "B1.jpg")
    assert fetch(red, files=files, key="../B1").detail == red
    (tmp_path / "B1.jpg").write_bytes(b"broken")
    assert fetch(red, files=files) == (normalised(RED, limits=LIMITS), "ok", red)
    with pytest.raises(SourceError, match="expected a folder with pictures, found nothing"):
        picture_files(tmp_path / "none")


def test_a_host_that_never_answers_is_asked_only_so_often(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "UNANSWERED", 3)
    with Fetcher(files={}, root=None, limits=LIMITS, patience=PATIENCE, workers=1) as fetcher:
        details = [fetcher.fetch(str(number), [NOWHERE]).detail for number in range(5)]
    assert ["never answered" in detail for detail in details] == [False] * 3 + [True] * 2


def test_a_host_that_has_answered_is_asked_on(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "UNANSWERED", 2)
    server.url("x", Reply(status=404), *[Reply(drops=True)] * 8, Reply(RED))
    with Fetcher(files={}, root=None, limits=LIMITS, patience=PATIENCE, workers=1) as fetcher:
        statuses = [fetcher.fetch("B1", [server.url("x")]).status for _ in range(6)]
    assert statuses == ["not_found", *["unreachable"] * 4, "ok"]


def test_a_host_that_refuses_all_is_left_until_it_is_asked_anew(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "REFUSED", 2)
    server.url("x", Reply(status=403), *[Reply(status=500)] * 20)
    patience = PATIENCE._replace(retries=0)
    with Fetcher(files={}, root=None, limits=LIMITS, patience=patience, workers=1) as fetcher:
        tried = [fetcher.fetch("B1", [server.url("x")]) for _ in range(5)]
    assert [each.status for each in tried] == ["forbidden", *["http_error"] * 4]
    assert ["has refused 2" in each.detail for each in tried] == [False] * 3 + [True] * 2
    assert server.times_asked("x") == 3


def test_errors_of_an_address_are_no_refusal_of_the_host(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "REFUSED", 2)
    server.url("x", *[Reply(status=405)] * 4, Reply(RED))
    with Fetcher(files={}, root=None, limits=LIMITS, patience=PATIENCE, workers=1) as fetcher:
        tried = [fetcher.fetch("B1", [server.url("x")]) for _ in range(5)]
    assert [each.status for each in tried] == [*["http_error"] * 4, "ok"]


def test_a_failure_that_may_pass_is_told_whichever_address_it_was(fetch, server: Server):
    gone, busy = server.url("gone", Reply(status=404)), server.url("busy", *[Reply(status=503)] * 9)
    assert fetch(gone, busy).status == "http_error"
    assert fetch(gone, "data:,none").status == "not_found"


def test_files_are_found_by_endings_of_either_case(tmp_path: Path):
    for name in ("B1.JPG", "B2.Gif", "B3.bmp", "B4.PNG", "B4.png"):
        (tmp_path / name).write_bytes(BLUE)
    found = {key: path.name for key, path in picture_files(tmp_path).items()}
    assert found == {"B1": "B1.JPG", "B2": "B2.Gif", "B3": "B3.bmp", "B4": "B4.png"}


def test_a_network_that_is_not_there_is_an_error(server: Server):
    with Fetcher(files={}, root=None, limits=LIMITS, patience=PATIENCE, workers=1) as fetcher:
        fetcher.check_network(few=1)
        fetcher.fetch("B1", [NOWHERE])
        fetcher.check_network(few=2)
        with pytest.raises(SourceError, match=r"found none for 1 addresses at 127.0.0.1:9; is there a network\?"):
            fetcher.check_network(few=1)
        fetcher.fetch("B1", [server.url("x", Reply(status=404))])
        fetcher.check_network(few=1)
