"""An HTTP proxy that spoils what passes: it stands before a real S3 server and injects faults from a seeded plan.

It hands on the `Host` it was called by, so the signatures of its clients hold. What happens to the n-th try of a
request follows from the seed, the request and n alone, in whatever order requests come; and at most `most_in_a_row`
tries of one request in a row are spoilt, so a client that tries once more than that gets through.
"""

import contextlib
import http.client
import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

import boto3

REFUSALS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "403": (403, "AccessDenied", "Access Denied"),
    "404": (404, "NoSuchKey", "The specified key does not exist."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
# Before it reaches the server · after it did, with the answer lost · the head of the answer · its body.
KINDS = (
    *REFUSALS, "reset", "lost", "silent", "cut head", "trickled head",
    "cut", "stalled", "slow", "trickled", "shortened", "overlong", "wrong bytes", "replaced",
)  # fmt: skip
# An XML body says itself where it ends.
OF_CONTENT = ("cut", "trickled")
OF_OBJECTS = ("shortened", "overlong", "wrong bytes")
PIECES = 8
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")


@dataclass
class Plan:
    """Which try of which request meets which fault.

    Attributes
    ----------
    share
        Kind -> share of the tries that meet it; a kind that does not fit a request leaves it alone.
    stall_s
        How long a stalled answer stalls: beyond the client's time-out.
    slow_s
        How long a slow answer takes, and a trickled one for each byte.
    replaced
        Gives, for the path of an object, a block in which the object is another one.
    """

    seed: int
    share: Mapping[str, float]
    most_in_a_row: int = 3
    stall_s: float = 10.0
    slow_s: float = 0.1
    replaced: Callable[[str], AbstractContextManager[None]] = lambda path: nullcontext()
    injected: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    _tries: Counter[str] = field(default_factory=Counter)
    _row: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        unknown = set(self.share) - set(KINDS)
        if unknown:
            raise ValueError(f"a fault must be one of {KINDS}, got {sorted(unknown)}")

    def next(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Return the fault of this try, None for none, and count it."""
        parts = urlsplit(path)
        # A bucket's name and an upload's id are by chance; all else of a request is the same in every run.
        key = parts.path.lstrip("/").partition("/")[2]
        query = sorted(item for item in parse_qsl(parts.query, keep_blank_values=True) if item[0] != "uploadId")
        request = f"{method} {key} {query} {headers.get('Range', '')}"
        of_object = method == "GET" and not query
        fits = dict.fromkeys(OF_CONTENT, method == "GET") | dict.fromkeys(OF_OBJECTS, of_object)
        fits["404"] = method == "GET" and not of_object
        fits["replaced"] = of_object and "If-Match" in headers
        with self._lock:
            self._tries[request] += 1
            drawn = random.Random(f"{self.seed} {request} {self._tries[request]}").random()
            kind = None
            for name, share in self.share.items():
                drawn -= share
                if drawn < 0:
                    kind = name
                    break
            if kind is None or not fits.get(kind, True) or self._row[request] >= self.most_in_a_row:
                self._row[request] = 0
                self.passed += 1
                return None
            self._row[request] += 1
            self.injected[kind] += 1
            return kind


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, upstream: str, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.plan = plan
        self.ended = threading.Event()

    def shutdown_request(self, request: socket.socket) -> None:
        # A shutdown would say good-bye before a reset.
        request.close()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that gave up


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_request(self) -> None:
        plan = self.server.plan
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = plan.next(self.command, self.path, self.headers)
        if kind in REFUSALS:
            self._refuse(*REFUSALS[kind])
            return
        if kind == "reset":
            self._reset()
            return
        with plan.replaced(self.path) if kind == "replaced" else nullcontext():
            status, headers, content = self._forward(body)
        if kind == "lost":
            self._reset()
        else:
            self._answer(kind, status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if "content-length" not in (name.lower() for name, _ in headers):
            headers.append(("Content-Length", str(len(content))))
        return answer.status, headers, content

    def _answer(self, kind: str | None, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        plan = self.server.plan
        if kind == "wrong bytes" and content and status < 300:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        if kind == "slow" and not content:
            self.server.ended.wait(plan.slow_s)
        if kind == "silent" or (kind == "stalled" and not content):
            self.server.ended.wait(plan.stall_s)
            self.close_connection = True
            return
        if kind == "shortened":
            content = content[: len(content) // 2]
        if kind in ("shortened", "overlong"):
            told = len(content) + (17 if kind == "overlong" else 0)
            headers = [(name, str(told) if name.lower() == "content-length" else value) for name, value in headers]
        head = f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\n"
        written = (head + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n").encode("latin-1")
        if kind == "cut head":
            self.wfile.write(written[: len(head) + 20])
            self.close_connection = True
            return
        if kind == "trickled head":
            self._trickle(written)
            return
        self.wfile.write(written)
        if kind == "trickled":
            self._trickle(content)
        elif kind == "overlong":
            self.wfile.write(content)
            self.close_connection = True
        elif kind in ("cut", "stalled"):
            self.wfile.write(content[: len(content) // 2])
            if kind == "stalled":
                self.server.ended.wait(plan.stall_s)
            self.close_connection = True
        elif kind == "slow":
            step = -(-len(content) // PIECES) or 1
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                self.server.ended.wait(plan.slow_s / PIECES)
        else:
            self.wfile.write(content)

    def _trickle(self, content: bytes) -> None:
        self.close_connection = True
        for k in range(len(content)):
            if self.server.ended.wait(self.server.plan.slow_s):
                return
            self.wfile.write(content[k : k + 1])

    def _refuse(self, status: int, code: str, message: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@contextmanager
def proxied(upstream: str, plan: Plan) -> Iterator[str]:
    """Serve between clients and `upstream`; gives the endpoint clients are to be told."""
    server = _Server(upstream, plan)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.ended.set()
        server.shutdown()
        with contextlib.suppress(OSError):
            server.server_close()
        thread.join(10)


def replacer(
    bucket: str, endpoint: str, other: Callable[[bytes], bytes]
) -> Callable[[str], AbstractContextManager[None]]:
    """Make a fault: an object is another one, made of its content, for the time of one request."""
    client, one_at_a_time = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1"), threading.Lock()

    @contextmanager
    def replaced(path: str) -> Iterator[None]:
        place = {"Bucket": bucket, "Key": path.split("?")[0].split("/", 2)[2]}
        with one_at_a_time:
            there = client.get_object(**place)
            content = there["Body"].read()
            client.put_object(**place, Body=other(content))
            yield
            client.put_object(**place, Body=content, Metadata=there["Metadata"])

    return replaced
