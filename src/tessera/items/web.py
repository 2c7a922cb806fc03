"""How tessera asks servers for files: what it takes for an answer, what it tries again, and after how long."""

import email.utils
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal, NamedTuple

import httpx
import tenacity

Reason = Literal["not_found", "forbidden", "http_error", "timeout", "unreachable", "unsupported", "too_large"]

SCHEMES = ("http://", "https://")
MOST_REDIRECTS = 5

#: Seconds that the rest of an answer may take which nobody wants.
LONGEST_REST = 1.0

#: A server that asks for more seconds than this is not waited for.
LONGEST_WAIT = 120.0

#: A whole file, or the part that was asked for.
CONTENT_STATUSES = {200, 206}

REASONS: dict[int, Reason] = {
    401: "forbidden",
    403: "forbidden",
    404: "not_found",
    410: "not_found",
}

#: Content encodings that are unpacked though they were not asked for, and the bytes that a piece has at most then.
ENCODINGS = {"gzip", "x-gzip", "deflate"}
PIECE = 2**16

#: Statuses that may be another the next time; those from 500 on are too.
PASSING_STATUSES = {408, 425, 429}
FIRST_SERVER_ERROR = 500


class Patience(NamedTuple):
    """Seconds without a byte before a try is given up, further tries, and seconds before the first of them."""

    timeout: float
    retries: int
    first_wait: float = 0.5


class PassingError(Exception):
    """A try failed for a reason that may pass."""

    def __init__(self, message: str, *, reason: Reason, wait: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.wait = wait  # seconds that the server asks for
        self.is_of_the_host = True  # and not of the address


class RefusedError(Exception):
    """A try failed for a reason that will not pass, or not soon."""

    def __init__(self, message: str, *, reason: Reason, code: int | None = None, is_of_the_host: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_of_the_host = is_of_the_host  # and not of the address
        self.code = code  # HTTP's status


def is_url(source: str) -> bool:
    """Return whether source is an address on the web rather than a path."""
    return source.lower().startswith(SCHEMES)


def new_client(patience: Patience, *, connections: int = 1) -> httpx.Client:
    """Return a client for several threads that keeps connections open."""
    return httpx.Client(
        timeout=httpx.Timeout(patience.timeout, pool=None),
        limits=httpx.Limits(max_connections=connections),
        follow_redirects=False,  # httpx would read, and unpack, the whole body of each answer on the way
        headers={"User-Agent": "tessera", "Accept": "*/*", "Accept-Encoding": "identity"},
    )


@contextmanager
def answer(client: httpx.Client, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    """Give the successful answer to a GET of url, or of where it leads by a few redirects, its body unread.

    Raises PassingError and RefusedError where there is no answer, it is another, or it breaks off in the block.
    """
    try:
        with closing(_sent(client, url, headers)) as response:
            _check(response)
            yield response
    except httpx.TimeoutException as error:
        raise PassingError(f"no byte in time ({type(error).__name__})", reason="timeout") from error
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
        raise RefusedError(str(error), reason="unsupported") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise PassingError(f"{type(error).__name__}: {error}", reason="unreachable") from error


def pieces_of(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body of an answer piece by piece, so that a few bytes which unpack to many are never held at once.

    Raises RefusedError where it is packed in a way that was not asked for, PassingError where it cannot be unpacked.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        yield from response.iter_raw()
        return
    if encoding not in ENCODINGS:
        raise RefusedError(f"expected no Content-Encoding, found {encoding}", reason="unsupported")
    unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of gzip or zlib, whichever it is
    try:
        for piece in response.iter_raw():
            rest = piece
            while rest:
                yield unpacked.decompress(rest, PIECE)
                rest = unpacked.unconsumed_tail
        yield unpacked.flush()
    except zlib.error as error:
        raise PassingError(f"Content-Encoding {encoding}: {error}", reason="unreachable") from error


def _sent(client: httpx.Client, url: str, headers: dict[str, str] | None) -> httpx.Response:
    try:
        request = client.build_request("GET", url, headers=headers)
        for _ in range(MOST_REDIRECTS + 1):
            response = client.send(request, stream=True)
            if response.next_request is None:
                return response
            _put_away(response)
            request = response.next_request
    except (httpx.InvalidURL, ValueError) as error:  # the latter of a host that is no name
        raise RefusedError(str(error), reason="unsupported") from error
    raise RefusedError(f"over {MOST_REDIRECTS} redirects", reason="http_error")


def _put_away(response: httpx.Response) -> None:
    """Be done with an answer: where little of it is left, read that, so that its connection serves on."""
    length = response.headers.get("Content-Length", "")
    with closing(response):
        if length.isdecimal() and int(length) <= PIECE:
            begun = time.monotonic()
            for _ in response.iter_raw():
                if time.monotonic() - begun > LONGEST_REST:
                    break


def tries(patience: Patience) -> tenacity.Retrying:
    """Return what tries again after a PassingError, later each time and not before the server's wish.

    It ends with the last PassingError after patience.retries further tries.
    """
    back_off = tenacity.wait_exponential(multiplier=patience.first_wait, max=LONGEST_WAIT)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(back_off(state), error.wait if isinstance(error, PassingError) else 0.0)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PassingError),
        stop=tenacity.stop_after_attempt(patience.retries + 1),
        wait=wait,
        reraise=True,
    )


def _check(response: httpx.Response) -> None:
    if response.status_code in CONTENT_STATUSES:
        return
    status, found = response.status_code, f"status {response.status_code} {response.reason_phrase}".strip()
    reason = REASONS.get(status, "http_error")
    if status not in PASSING_STATUSES and status < FIRST_SERVER_ERROR:
        raise RefusedError(found, reason=reason, code=status)
    wait = _seconds_asked(response.headers.get("Retry-After", ""))
    if wait > LONGEST_WAIT:
        raise RefusedError(f"{found}, to be tried again only in {wait:.0f} s", reason=reason, is_of_the_host=True)
    raise PassingError(found, reason=reason, wait=wait)


def _seconds_asked(retry_after: str) -> float:
    """Return the seconds that a header Retry-After, a number or a date, asks for; 0 where it says neither."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
