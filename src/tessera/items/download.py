"""Bring sources into the cache of downloads: resumed where one broke off, whole or not at all, checked, only once."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from tessera.errors import SourceError
from tessera.items.locks import one_at_a_time
from tessera.items.progress import Progress, silently
from tessera.items.web import (
    PassingError,
    Patience,
    RefusedError,
    answer,
    is_url,
    new_client,
    tries,
)

PATIENCE = Patience(timeout=30.0, retries=5)

#: Bytes between two signs of progress.
BLOCK = 2**20

#: Letters of a URL's digest that tell files of one name apart, and of the name.
DIGEST_LETTERS = 12
LONGEST_NAME = 100

PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def obtain(
    source: str,
    *,
    downloads: Path,
    checksum: str | None = None,
    patience: Patience = PATIENCE,
    progress: Progress = silently,
) -> Path:
    """Return the file that source names: a path as it is, a URL as its copy in downloads.

    Raises SourceError where source is neither, there is no such file, or its SHA-256 is not checksum.
    """
    if is_url(source):
        return download(source, downloads, checksum=checksum, patience=patience, progress=progress)
    if "://" in source:
        raise SourceError(f"{source}: expected a path, or a URL of http or https")
    path = Path(source)
    if not path.is_file():
        raise SourceError(f"{source}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    if checksum is not None and not _has_checksum(path, checksum):
        raise SourceError(f"{source}: expected SHA-256 {checksum}, found {sha256(path)}")
    return path


def download(
    url: str,
    folder: Path,
    *,
    checksum: str | None = None,
    patience: Patience = PATIENCE,
    progress: Progress = silently,
) -> Path:
    """Return the file at url in folder, fetched unless it is there.

    What a broken download left is gone on with where the server can tell that the file is still the same, and
    fetched anew where not. As long as tries bring further bytes, there are more of them.

    Raises SourceError naming url, what was expected and what was found.
    """
    try:
        target = folder / cache_name(url)
    except ValueError as error:
        raise SourceError(f"{url}: expected a URL, found {error}") from error
    with one_at_a_time(target):
        if target.is_file() and (checksum is None or _has_checksum(target, checksum)):
            return target
        partial = _Partial(target)
        _fetch(url, partial, patience=patience, progress=progress)
        if checksum is not None and not _has_checksum(partial.path, checksum):
            found = sha256(partial.path)
            partial.discard()
            raise SourceError(f"{url}: expected SHA-256 {checksum}, found {found}")
        partial.land(target)
    return target


def cache_name(url: str) -> str:
    """Return the name of url's copy: a digest of url, and the name that it ends with for the reader."""
    name = re.sub(r"[^\w.-]", "_", unquote(_last_name(url)), flags=re.ASCII)[-LONGEST_NAME:]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:DIGEST_LETTERS]}-{name}"


def _last_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at path, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_checksum(path: Path, checksum: str) -> bool:
    return sha256(path) == checksum.lower()


class _Origin(NamedTuple):
    """What a server says of the file behind a URL."""

    validator: str  # a strong ETag or the date of the last change; empty where the server names neither
    size: int | None


class _Partial:
    """The bytes that are here already, and what the server said of the file that they begin."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.partial")
        self.note = target.with_name(f"{target.name}.partial.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> _Origin:
        try:
            return _Origin(**json.loads(self.note.read_text()))
        except (OSError, ValueError, TypeError):
            return _Origin("", None)

    def begin(self, origin: _Origin) -> None:
        """Forget the bytes, and note of which file the next ones are."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps(origin._asdict()))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def land(self, target: Path) -> None:
        self.path.replace(target)
        self.note.unlink(missing_ok=True)


def _fetch(url: str, partial: _Partial, *, patience: Patience, progress: Progress) -> None:
    try:
        with new_client(patience) as client:
            while not _has_come(client, url, partial, patience=patience, progress=progress):
                pass
    except PassingError as error:
        raise SourceError(f"{url}: expected a whole file, found after {patience.retries + 1} tries: {error}") from error
    except RefusedError as error:
        raise SourceError(f"{url}: expected a file, found {error}") from error
    except OSError as error:
        raise SourceError(f"{url}: expected to keep the file as {partial.path}: {error}") from error


def _has_come(client: httpx.Client, url: str, partial: _Partial, *, patience: Patience, progress: Progress) -> bool:
    """Try, and try again; return whether partial is whole, or raise PassingError where all tries brought no byte."""
    before = partial.size
    try:
        tries(patience)(_one_try, client, url, partial, progress=progress)
    except PassingError:
        if partial.size <= before:
            raise
        return False
    return True


def _one_try(client: httpx.Client, url: str, partial: _Partial, *, progress: Progress) -> None:
    """Fetch what is missing of partial, or all of it. Raises PassingError where afterwards some is missing still."""
    held = partial.origin()
    headers = {}
    if partial.size and held.validator:
        headers = {"Range": f"bytes={partial.size}-", "If-Range": held.validator}
    try:
        with answer(client, url, headers) as response:
            if "text/html" in response.headers.get("Content-Type", ""):
                raise RefusedError("a web page", reason="unsupported")
            origin = _origin(response)
            if response.status_code != PARTIAL_CONTENT:
                partial.begin(origin)
            elif origin.validator != held.validator or not _goes_on(response, at=partial.size):
                partial.discard()
                raise PassingError("a part of another file", reason="http_error")
            _append(response, partial, size=origin.size, title=_last_name(url), progress=progress)
    except RefusedError as error:
        if error.code != RANGE_NOT_SATISFIABLE or not partial.size:
            raise
        partial.discard()
        raise PassingError("a file shorter than what is here of it", reason="http_error") from error
    if origin.size is not None and partial.size != origin.size:
        found = partial.size
        if found > origin.size:
            partial.discard()
        raise PassingError(f"{found} bytes of {origin.size}", reason="http_error")


def _append(response: httpx.Response, partial: _Partial, *, size: int | None, title: str, progress: Progress) -> None:
    blocks = None if size is None else (size - partial.size) // BLOCK
    with partial.path.open("ab") as file:
        for _ in progress(_written(response, file), title=f"{title}, MiB", total=blocks):
            pass


def _written(response: httpx.Response, file: BinaryIO) -> Iterator[int]:
    """Write to file what comes, as it comes; yield at each further BLOCK."""
    size = 0
    for piece in response.iter_raw():
        file.write(piece)
        yield from range(size // BLOCK, (size + len(piece)) // BLOCK)
        size += len(piece)


def _origin(response: httpx.Response) -> _Origin:
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if response.status_code == PARTIAL_CONTENT:
        part = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return _Origin(validator, int(part[2]) if part and part[2] != "*" else None)
    length = response.headers.get("Content-Length", "")
    return _Origin(validator, int(length) if length.isdecimal() else None)


def _goes_on(response: httpx.Response, *, at: int) -> bool:
    part = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return part is not None and int(part[1]) == at
