import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from polars.testing import assert_frame_equal
from pyarrow import parquet

from tessera.errors import SourceError
from tessera.items import picture_parts
from tessera.items.picture_parts import (
    SCHEMA,
    STATUSES,
    fetch_parts,
    fingerprint,
    merge,
    summed_up,
    wanted_pictures,
)
from tessera.items.pictures import PASSING, Limits, normalised
from tessera.items.web import Patience
from tessera.schemas import IMAGES
from tests.serving import Reply, Server, serving

LIMITS = Limits(max_bytes=100_000, max_pixels=10_000, min_side=16, longest_side=32, quality=80)
KEYS = [f"B{number}" for number in range(7)]


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20 + number), (number * 30, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        for number, key in enumerate(KEYS):
            server.url(key, Reply(picture(number)))
        yield server


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    monkeypatch.setattr(picture_parts, "BLOCK", 3)

    def fetched(wanted: pl.DataFrame, **changes) -> list[Path]:
        options = {
            "parts": tmp_path / "parts",
            "files": {},
            "root": None,
            "limits": LIMITS,
            "patience": Patience(timeout=0.3, retries=0, first_wait=0.001),
            "workers": 4,
        }
        return fetch_parts(wanted, **options | changes)

    return fetched


def wanted_from(server: Server, keys: list[str] = KEYS) -> pl.DataFrame:
    return pl.DataFrame({"key": keys, "pictures": [[server.url(key)] for key in keys]})


def table(parts: list[Path]) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(part) for part in parts)


def test_the_table_is_the_stages():
    assert SCHEMA == IMAGES
    assert set(PASSING) < set(STATUSES)


def test_wanted_are_the_keys_once_in_order_whatever_is_known_of_them():
    items = pl.DataFrame({"key": ["c", "a", "x"], "pictures": [["3"], ["1", "2"], ["9"]]})
    wanted = wanted_pictures(pl.Series(["c", "b", "a", "c"]), items=items)
    assert wanted.rows() == [("a", ["1", "2"]), ("b", []), ("c", ["3"])]


def test_every_item_has_its_own_picture_in_parts_of_some(fetch, server: Server):
    server.url("B2", Reply(status=404))
    server.url("B4", Reply(picture(4)[:40]))
    parts = fetch(wanted_from(server))
    assert [pl.read_parquet(part).height for part in parts] == [3, 3, 1]
    found = table(parts)
    assert dict(found.schema) == SCHEMA
    assert found["key"].to_list() == KEYS
    assert found["status"].to_list() == ["ok", "ok", "not_found", "ok", "undecodable", "ok", "ok"]
    for number, row in enumerate(found.iter_rows(named=True)):
        own = normalised(picture(number), limits=LIMITS)
        expected = own if row["status"] == "ok" else (None, None, None)
        assert (row["picture"], row["width"], row["height"]) == expected


def test_workers_change_nothing_but_how_many_are_fetched_at_once(fetch, server: Server, tmp_path: Path):
    together = threading.Barrier(3, timeout=5)
    ask = server.next_reply
    server.next_reply = lambda path: together.wait() is not None and ask(path)
    many = table(fetch(wanted_from(server, KEYS[:3]), workers=3))
    server.next_reply = ask
    one = table(fetch(wanted_from(server, KEYS[:3]), workers=1, parts=tmp_path / "one"))
    assert_frame_equal(many, one)
    assert one["status"].to_list() == ["ok"] * 3


def killed_after(blocks_done: int):
    def progress(blocks, **_):
        for number, block in enumerate(blocks):
            if number == blocks_done:
                raise KeyboardInterrupt
            yield block

    return progress


def test_a_run_that_was_killed_is_gone_on_with(fetch, server: Server, tmp_path: Path):
    server.url("B1", Reply(status=500))
    with pytest.raises(KeyboardInterrupt):
        fetch(wanted_from(server), progress=killed_after(2))
    assert len(list((tmp_path / "parts").iterdir())) == 2
    server.asked.clear()
    server.url("B1", Reply(picture(1)))
    found = table(fetch(wanted_from(server)))
    assert sorted(path for path, _ in server.asked) == ["/B1", "/B6"]
    assert_frame_equal(found, table(fetch(wanted_from(server), parts=tmp_path / "anew")))


def test_files_are_read_again_in_a_run_that_goes_on(fetch, server: Server, tmp_path: Path):
    (tmp_path / "B0.png").write_bytes(picture(0))
    options = {"files": {"B0": tmp_path / "B0.png"}, "parts": tmp_path / "parts"}
    fetch(wanted_from(server, ["B0"]), **options)
    (tmp_path / "B0.png").write_bytes(picture(5))
    found = table(fetch(wanted_from(server, ["B0"]), **options))
    assert found["picture"].to_list() == [normalised(picture(5), limits=LIMITS).content]


def test_no_network_at_all_is_an_error_and_a_dead_link_is_not(fetch, tmp_path: Path):
    dead = "http://127.0.0.1:9/x"
    nothing = pl.DataFrame({"key": KEYS, "pictures": [[dead]] * len(KEYS)})
    with pytest.raises(SourceError, match="is there a network"):
        fetch(nothing)
    no_address = nothing.with_columns(pictures=pl.Series([["https:///x"], *nothing["pictures"].to_list()[1:]]))
    with pytest.raises(SourceError, match="is there a network"):
        fetch(no_address, parts=tmp_path / "more")
    one_dead = pl.DataFrame({"key": ["B0", "B1"], "pictures": [[dead], ["B1.png"]]})
    (tmp_path / "B1.png").write_bytes(picture(1))
    found = table(fetch(one_dead, root=tmp_path, parts=tmp_path / "others"))
    assert found["status"].to_list() == ["unreachable", "ok"]


@pytest.mark.parametrize(("dead", "is_network"), [(4, True), (6, False)])
def test_many_dead_links_beside_more_pictures_in_files(dead, is_network, fetch, monkeypatch, tmp_path: Path):
    """A host that is gone for good does not keep a shop of files from being run."""
    monkeypatch.setattr(picture_parts, "UNANSWERED", 2)
    addresses = [["B.png"]] * 5 + [["http://127.0.0.1:9/x"]] * dead
    wanted = pl.DataFrame({"key": [f"K{place:02}" for place in range(5 + dead)], "pictures": addresses})
    (tmp_path / "B.png").write_bytes(picture(1))
    if is_network:
        statuses = table(fetch(wanted, root=tmp_path))["status"].to_list()
        assert statuses == ["ok"] * 5 + ["unreachable"] * dead
    else:
        with pytest.raises(SourceError, match="is there a network"):
            fetch(wanted, root=tmp_path)


def test_a_dead_link_alone_is_tried_again(fetch, server: Server):
    """What is kept of the run before tells that there is a network."""
    dead = pl.DataFrame({"key": ["Z"], "pictures": [["http://127.0.0.1:9/dead.jpg"]]})
    wanted = pl.concat([wanted_from(server), dead])
    first, again = (table(fetch(wanted))["status"].to_list() for _ in range(2))
    assert first == again == [*["ok"] * len(KEYS), "unreachable"]


def test_a_network_that_is_gone_by_now_is_an_error(fetch, server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picture_parts, "UNANSWERED", 2)
    fetch(wanted_from(server))
    more = pl.DataFrame({"key": ["X", "Y", "Z"], "pictures": [["http://127.0.0.1:9/x"]] * 3})
    for key in KEYS:
        server.url(key, Reply(drops=True))
    with pytest.raises(SourceError, match="is there a network"):
        fetch(pl.concat([wanted_from(server), more]))


def test_a_dead_network_is_noticed_after_the_first_part(fetch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picture_parts, "UNANSWERED", 3)
    nothing = pl.DataFrame({"key": KEYS, "pictures": [["http://127.0.0.1:9/x"]] * len(KEYS)})
    begun = []
    with pytest.raises(SourceError):
        fetch(nothing, progress=lambda blocks, **_: (begun.append(block) or block for block in blocks))
    assert len(begun) == 1


def test_nothing_is_asked_where_nothing_is_on_the_web(fetch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked"))
    (tmp_path / "B0.png").write_bytes(picture(0))
    wanted = pl.DataFrame(
        {"key": ["B0", "B1"], "pictures": [["B0.png"], []]}, schema_overrides={"pictures": pl.List(pl.String)}
    )
    assert table(fetch(wanted, root=tmp_path))["status"].to_list() == ["ok", "missing"]


def test_no_items_give_an_empty_table(fetch, tmp_path: Path):
    parts = fetch(pl.DataFrame(schema={"key": pl.String, "pictures": pl.List(pl.String)}))
    merge(parts, into=tmp_path / "all.parquet")
    assert dict(pl.read_parquet(tmp_path / "all.parquet").schema) == SCHEMA
    assert summed_up(parts)["items"] == 0
    assert summed_up(parts)["share_with_picture"] == 0


def test_merged_parts_are_row_groups_and_the_same_bytes_each_time(fetch, server: Server, tmp_path: Path):
    parts = fetch(wanted_from(server))
    merge(parts, into=tmp_path / "one.parquet")
    merge(parts, into=tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert_frame_equal(pl.read_parquet(tmp_path / "one.parquet"), table(parts))
    groups = parquet.ParquetFile(tmp_path / "one.parquet").metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [3, 3, 1]


def test_the_sums(fetch, server: Server):
    server.url("B2", Reply(status=404))
    parts = fetch(wanted_from(server))
    sums = summed_up(parts)
    assert sums["status"] == dict.fromkeys(STATUSES, 0) | {"ok": 6, "not_found": 1}
    assert (sums["items"], sums["share_with_picture"]) == (7, 6 / 7)
    assert sums["bytes"] == sum(len(content) for content in table(parts)["picture"].drop_nulls())


def test_the_fingerprint_tells_runs_apart_that_differ_in_what_they_give():
    wanted = pl.DataFrame({"key": ["a"], "pictures": [["x"]]})
    same = fingerprint(wanted, files={}, limits=LIMITS)
    assert fingerprint(wanted.clone(), files={}, limits=LIMITS) == same
    others = {
        fingerprint(wanted.with_columns(key=pl.lit("b")), files={}, limits=LIMITS),
        fingerprint(pl.DataFrame({"key": ["a"], "pictures": [["y"]]}), files={}, limits=LIMITS),
        fingerprint(wanted, files={"a": Path("a.jpg")}, limits=LIMITS),
        *(fingerprint(wanted, files={}, limits=LIMITS._replace(**{name: 33})) for name in Limits._fields),
    }
    assert same not in others
    assert len(others) == 3 + len(Limits._fields)
