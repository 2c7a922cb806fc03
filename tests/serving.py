"""A server on this machine that behaves as badly as a test wants it to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """How a request is answered."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None  # bytes, if not those of the body
    sent: int | None = None  # bytes, if not all; then the connection is closed
    pause: float = 0.0  # seconds before the body
    pieces: int = 1  # in so many the body is sent, with a pause before each
    knows_ranges: bool = False
    drops: bool = False  # the connection is closed without a word


class Server:
    """Answers each path with its replies in turn, and with the last again and again; notes what was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str, *replies: Reply) -> str:
        if replies:
            self.replies[f"/{path}"] = list(replies)
        return f"{self.address}/{path}"

    def times_asked(self, path: str) -> int:
        return sum(asked == f"/{path}" for asked, _ in self.asked)

    def next_reply(self, path: str) -> Reply:
        replies = self.replies.get(path, [Reply(status=404)])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextmanager
def serving() -> Iterator[Server]:
    """Give a server that runs until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionResetError):  # by a client that had enough
                super().handle()

        def do_GET(self) -> None:
            server.asked.append((self.path, dict(self.headers)))
            _answer(self, server.next_reply(self.path))

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _answer(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    if reply.drops:
        handler.close_connection = True
        return
    body, status, headers = reply.body, reply.status, dict(reply.headers)
    wanted = handler.headers.get("Range", "")
    is_same = handler.headers.get("If-Range") in (None, headers.get("ETag"), headers.get("Last-Modified"))
    if reply.knows_ranges and wanted and is_same:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            status, body = 416, b""
        else:
            status = 206
            headers.setdefault("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
    handler.send_response(status)
    headers.setdefault("Content-Length", str(len(body) if reply.announced is None else reply.announced))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    _send(handler, body[: reply.sent], reply)
    handler.close_connection = reply.sent is not None or reply.announced is not None


def _send(handler: BaseHTTPRequestHandler, body: bytes, reply: Reply) -> None:
    size = max(1, len(body) // reply.pieces)
    try:
        for start in range(0, max(len(body), 1), size):
            if reply.pause:
                time.sleep(reply.pause)
            handler.wfile.write(body[start : start + size])
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True
