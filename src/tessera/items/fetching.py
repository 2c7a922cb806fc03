"""Fetch the picture of an item: from a file, from a `data:` URL, from the web.

What an item names is tried in its order, the best first, until one gives a usable picture. Where none does, the
status is that of the first which another run may get, else that of the first, and the detail tells of all.
"""

import base64
import binascii
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from tessera.errors import SourceError
from tessera.items.pictures import PASSING, Limits, Picture, Status, UnusableError, normalised
from tessera.items.web import (
    PassingError,
    Patience,
    RefusedError,
    answer,
    is_url,
    new_client,
    pieces_of,
    tries,
)

#: A picture file of an item is called by its key and one of these, in letters of either case, the first that is there.
FILE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")

#: So many time-outs long a server may take over one picture, if it sends a byte now and then.
TIMEOUTS_A_PICTURE = 10

#: A host that has never answered is asked for so many pictures, and then for no more; so is one that has refused so
#: many in a row with an error of its own, each after all the retries. Errors of an address, as 405, do not count.
UNANSWERED = 10
REFUSED = 30

#: What becomes of a picture whose server gives no answer.
UNREACHED: tuple[Status, ...] = ("unreachable", "timeout")

#: What an address that holds its picture begins with, in letters of either case.
DATA = "data:"

#: Letters of an address that a row quotes.
QUOTED = 200

#: A byte of a `data:` URL may be written as `%20`.
LETTERS_A_BYTE = 3


class Tried(NamedTuple):
    """What came of an item: its picture, or why there is none; `detail` names where it was looked for."""

    picture: Picture | None
    status: Status
    detail: str


def picture_files(folder: Path) -> dict[str, Path]:
    """Return the picture file in folder of each key that has one: `{"B001": folder / "B001.jpg"}`.

    Raises SourceError where there is no such folder.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: expected a folder with pictures, found {'a file' if folder.exists() else 'nothing'}"
        )
    names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    files: dict[str, Path] = {}
    for suffix in reversed(FILE_SUFFIXES):
        files |= {name[: -len(suffix)]: folder / name for name in sorted(names) if name.lower().endswith(suffix)}
    return files


class Fetcher:
    """Fetches the picture of one item at a time in each of several threads."""

    def __init__(
        self, *, files: Mapping[str, Path], root: Path | None, limits: Limits, patience: Patience, workers: int
    ) -> None:
        self.files = files
        self.root = root
        self.limits = limits
        self.patience = patience
        self.client = new_client(patience, connections=workers)
        self.hosts = _Hosts()
        self.known: str | None = None  # an address on the web that gave a picture to an earlier run

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.close()

    def check_network(self, *, few: int) -> None:
        """Raise SourceError where a few addresses or more were asked for and no server has answered."""
        if self.hosts.unanswered.total() >= few and not self.hosts.answered and not self._answers_again():
            raise SourceError(
                f"pictures: expected an answer of at least one server, found none for {self.hosts.unanswered.total()} "
                f"addresses at {', '.join(sorted(self.hosts.unanswered))}; is there a network?"
            )

    def _answers_again(self) -> bool:
        """Whether a server that answered an earlier run still does."""
        if self.known is not None:
            with contextlib.suppress(UnusableError):
                self._of_web(self.known)
        return bool(self.hosts.answered)

    def fetch(self, key: str, pictures: Sequence[str]) -> Tried:
        """Return the first usable picture of the item."""
        failures: list[tuple[Status, str]] = []
        for source, name in self._candidates(key, pictures):
            try:
                picture = normalised(self._content(source), limits=self.limits)
            except UnusableError as error:
                failures.append((error.status, f"{name}: {error}"))
            else:
                return Tried(picture, "ok", name)
        if not failures:
            return Tried(None, "missing", "the source names no picture")
        statuses = [status for status, _ in failures]
        status = next((each for each in statuses if each in PASSING), statuses[0])
        return Tried(None, status, "; ".join(detail for _, detail in failures))

    def _candidates(self, key: str, pictures: Sequence[str]) -> Iterator[tuple[Path | str, str]]:
        """Yield where to look, and what to call it."""
        if key in self.files:
            yield self.files[key], self.files[key].name
        for address in pictures:
            yield address, "a data: URL" if _is_data_url(address) else address[:QUOTED]

    def _content(self, source: Path | str) -> bytes:
        if isinstance(source, Path):
            return self._of_file(source)
        if _is_data_url(source):
            return content_of_data_url(source, max_bytes=self.limits.max_bytes)
        if is_url(source):
            return self._of_web(source)
        if self.root is None or "://" in source:
            raise UnusableError("unsupported", "expected a URL of http or https")
        root, path = (Path(os.path.normpath(each.absolute())) for each in (self.root, self.root / source))
        if not path.is_relative_to(root):
            raise UnusableError("unsupported", f"expected a path in {self.root}")
        return self._of_file(path)

    def _of_file(self, path: Path) -> bytes:
        try:
            if not path.is_file():
                raise UnusableError("not_found", "no such file")
            size = path.stat().st_size
            if size > self.limits.max_bytes:
                raise UnusableError("too_large", f"{size} bytes of at most {self.limits.max_bytes}")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise UnusableError("forbidden", str(error)) from error

    def _of_web(self, url: str) -> bytes:
        host = _host(url)
        if self.hosts.is_silent(host):
            raise UnusableError("unreachable", f"{host} has never answered")
        if self.hosts.is_refusing(host):
            raise UnusableError("http_error", f"{host} has refused {REFUSED} pictures in a row")
        try:
            content = tries(self.patience)(self._one_try, url)
        except (PassingError, RefusedError) as error:
            if error.reason != "unsupported":  # for such an address nobody was asked
                self.hosts.note(host, has_answered=error.reason not in UNREACHED)
            self.hosts.note_refusal(host, is_one=error.reason == "http_error" and error.is_of_the_host)
            raise UnusableError(error.reason, str(error)) from error
        self.hosts.note_refusal(host, is_one=False)
        return content

    def _one_try(self, url: str) -> bytes:
        begun = time.monotonic()
        content = bytearray()
        with answer(self.client, url) as response:
            self.hosts.note(_host(url), has_answered=True)
            for piece in pieces_of(response):
                content += piece
                if len(content) > self.limits.max_bytes:
                    raise RefusedError(f"over {self.limits.max_bytes} bytes", reason="too_large")
                if time.monotonic() - begun > TIMEOUTS_A_PICTURE * self.patience.timeout:
                    raise PassingError(f"{len(content)} bytes in {TIMEOUTS_A_PICTURE} time-outs", reason="timeout")
        return bytes(content)


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError as error:
        raise UnusableError("unsupported", str(error)) from error


class _Hosts:
    """Which hosts have ever answered, how many addresses each other one left unanswered, and refusals in a row."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self.unanswered: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, host: str, *, has_answered: bool) -> None:
        with self._lock:
            if has_answered:
                self.answered.add(host)
            else:
                self.unanswered[host] += 1

    def note_refusal(self, host: str, *, is_one: bool) -> None:
        with self._lock:
            self.refusals[host] = self.refusals[host] + 1 if is_one else 0

    def is_refusing(self, host: str) -> bool:
        return self.refusals[host] >= REFUSED

    def is_silent(self, host: str) -> bool:
        return host not in self.answered and self.unanswered[host] >= UNANSWERED


def _is_data_url(source: str) -> bool:
    return source[: len(DATA)].lower() == DATA


def content_of_data_url(url: str, *, max_bytes: int) -> bytes:
    """Return the bytes that a `data:` URL holds (RFC 2397). Raises UnusableError where it is too long or is none.

    Base64 may be broken into lines and lack its last `=`, as browsers forgive it.
    """
    if len(url) > max_bytes * LETTERS_A_BYTE + QUOTED:
        raise UnusableError("too_large", f"a data: URL of {len(url)} letters, at most {max_bytes} bytes allowed")
    header, comma, data = url.partition(",")
    if not comma:
        raise UnusableError("unsupported", "expected a comma")
    content = unquote_to_bytes(data)
    if not header.lower().endswith(";base64"):
        return content
    letters = b"".join(content.split()).rstrip(b"=")
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        raise UnusableError("undecodable", f"not base64: {error}") from error
