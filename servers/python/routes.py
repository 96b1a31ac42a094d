"""Routes: what the server answers, and the limits on what a client may send."""

import contextlib
import functools
import json
import os
import re
import threading
import time
import traceback
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from config import DrainPolicy, Settings, parse_integer, parse_seconds
from connections import BLOCK, Connection, ConnectionState, Cut, Registry, RequestError
from lifecycle import Lifecycle, Phase

MAX_SLOW = 300  # seconds
MAX_BYTES = 256 << 20
MAX_CHUNKS = 10_000
MAX_INTERVAL = 60  # seconds


class Route(NamedTuple):
    method: str
    path: str
    handle: Callable[["Exchange"], None]
    exempt: bool = False  # from MAX_IN_FLIGHT: a probe must get through under load


class App:
    """What the handlers share, and the handlers. Each runs in the thread of its connection."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, registry: Registry, instance: str) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.registry = registry
        self.instance = instance
        self.prestops: set[threading.Event] = set()  # one for each /prestop that is not answered yet
        self._routes = self.routes()
        self._admin_routes = self.admin_routes()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", self.root),
            Route("GET", "/slow", self.slow),
            Route("POST", "/echo", self.echo),
            Route("GET", "/bytes", self.bytes),
            Route("GET", "/stream", self.stream),
            Route("GET", "/events", self.events),
            *self.health_routes(),
        ]

    def admin_routes(self) -> list[Route]:
        return [
            Route("GET", "/metrics", self.metrics, exempt=True),
            Route("GET", "/prestop", self.prestop, exempt=True),
            Route("POST", "/prestop", self.prestop, exempt=True),
            *self.health_routes(),
        ]

    def health_routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self.health_ready, exempt=True),
            Route("GET", "/health/live", self.health_live, exempt=True),
            Route("GET", "/health/ready", self.health_ready, exempt=True),
        ]

    def serve(self, connection: Connection) -> None:
        """Serves the traffic listener: every request is counted, limited and in flight until it is answered."""
        Exchange.serve(connection, self, self._answer)

    def serve_admin(self, connection: Connection) -> None:
        """Serves the admin listener, whose requests are nobody's traffic."""
        Exchange.serve(connection, self, self._answer_admin)

    def _answer(self, exchange: "Exchange") -> None:
        route = find(self._routes, exchange)
        admitted = self.registry.begin_request(exchange.connection, route.exempt)
        reject = self.settings.current.drain_policy is DrainPolicy.REJECT
        if reject and self.lifecycle.phase >= Phase.DRAINING:
            raise RequestError(503, "shutting down", "Retry-After: 1")
        if not admitted:
            raise RequestError(429, "too many requests in flight", "Retry-After: 1")
        exchange.read_body()
        route.handle(exchange)

    def _answer_admin(self, exchange: "Exchange") -> None:
        route = find(self._admin_routes, exchange)
        exchange.read_body()
        route.handle(exchange)

    def root(self, exchange: "Exchange") -> None:
        exchange.send_json(200, server="python", phase=str(self.lifecycle.phase))

    def slow(self, exchange: "Exchange") -> None:
        """Is a request that takes its time. A client that leaves ends the wait. rule: client-gone-releases"""
        delay = exchange.seconds("delay", "1", MAX_SLOW)
        exchange.connection.pause(time.monotonic() + delay)
        exchange.send_json(200, slept=delay)

    def echo(self, exchange: "Exchange") -> None:
        content_type = exchange.headers.get("content-type", "application/octet-stream")
        exchange.send(200, content_type, exchange.body)

    def bytes(self, exchange: "Exchange") -> None:
        size = exchange.integer("size", 1024, 0, MAX_BYTES)
        exchange.send_head(200, "Content-Type: application/octet-stream", f"Content-Length: {size}")
        block = bytes(BLOCK)
        for _ in range(size // BLOCK):
            exchange.connection.send(block)
        exchange.connection.send(block[: size % BLOCK])

    def stream(self, exchange: "Exchange") -> None:
        """Is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated"""
        chunks = exchange.integer("chunks", 10, 1, MAX_CHUNKS)
        interval = exchange.seconds("interval", "0.1", MAX_INTERVAL)
        exchange.begin_chunks("text/plain")
        for number in range(chunks):
            if number > 0:
                exchange.connection.pause(time.monotonic() + interval)
            exchange.send_chunk(b"chunk %d\n" % number)
        exchange.end_chunks()

    def events(self, exchange: "Exchange") -> None:
        """Has no end of its own: it gets its final chunk when the listener closes. rule: endless-stream-ends"""
        exchange.begin_chunks("text/event-stream")
        tick = time.monotonic()
        number = 0
        while True:
            exchange.send_chunk(b"data: %d\n\n" % number)
            tick += 1
            exchange.connection.pause(tick, self.lifecycle.listener_closed)
            if self.lifecycle.listener_closed.is_set():
                break
            number += 1
        exchange.end_chunks()

    def health_live(self, exchange: "Exchange") -> None:
        """Says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays"""
        exchange.send_json(200, phase=str(self.lifecycle.phase))

    def health_ready(self, exchange: "Exchange") -> None:
        status = 200 if self.lifecycle.is_ready() else 503
        exchange.send_json(status, phase=str(self.lifecycle.phase))

    def metrics(self, exchange: "Exchange") -> None:
        in_flight, states = self.registry.count()
        lines = ["# TYPE http_requests_in_flight gauge", f"http_requests_in_flight {in_flight}"]
        lines.append("# TYPE http_connections gauge")
        for state in (ConnectionState.UNUSED, ConnectionState.ACTIVE, ConnectionState.IDLE):
            lines.append(f'http_connections{{state="{state.value}"}} {states[state]}')
        lines.append("# TYPE lifecycle_phase gauge")
        lines.append(f'lifecycle_phase{{phase="{self.lifecycle.phase}"}} 1')
        exchange.send(200, "text/plain; version=0.0.4", "".join(f"{line}\n" for line in lines).encode())

    def prestop(self, exchange: "Exchange") -> None:
        """Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops
        nothing: the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process"""
        answered = threading.Event()
        self.prestops.add(answered)
        try:
            exchange.connection.pause(self.lifecycle.begin_lame_duck("prestop"))  # rule: lame-duck-serves
            exchange.send_json(200, phase=str(self.lifecycle.phase))
        finally:
            answered.set()
            self.prestops.discard(answered)


def find(routes: list[Route], exchange: "Exchange") -> Route:
    """Returns the route of a request, or one that rejects it."""
    allowed = []
    for route in routes:
        if route.path == exchange.url_path:
            if route.method == exchange.command:
                return route
            allowed.append(route.method)

    def reject(exchange: "Exchange") -> None:
        if not allowed:
            raise RequestError(404, "no such path")
        raise RequestError(405, "method not allowed", f"Allow: {', '.join(allowed)}")

    return Route(exchange.command, exchange.url_path, reject)


class Exchange(BaseHTTPRequestHandler):
    """A request and its response, one pair after the other on a connection. The loop around them is that of
    http.server. What it reads and writes goes through Connection instead of its files: these know neither
    deadlines nor bounds, take half a head for a whole one, and send head and body in two segments."""

    @classmethod
    def serve(cls, connection: Connection, app: App, answer: Callable[["Exchange"], None]) -> None:
        """Serves a connection to its end: the constructor of BaseHTTPRequestHandler does all of that."""
        try:
            cls(connection, app, answer)
        except Cut:
            connection.cut()
            return
        except OSError:
            pass  # nobody is left to answer
        except Exception:
            traceback.print_exc()
            connection.cut()  # a response that has begun must not look complete
            return
        connection.close()

    def __init__(self, connection: Connection, app: App, answer: Callable[["Exchange"], None]) -> None:
        self.connection = connection
        self.app = app
        self.answer = answer
        super().__init__(connection, None, None)

    def setup(self) -> None:
        """No files: see above."""

    def finish(self) -> None:
        """Nothing to flush, and serve closes the connection."""

    def handle_one_request(self) -> None:
        """Called again and again by http.server, until close_connection is true."""
        self.command = None
        self.body = b""
        self.body_is_unread = True
        try:
            head = self.connection.receive_head()
            if not head:
                self.close_connection = True
                return
            self.parse(head)
            self.answer(self)
        except RequestError as error:
            self.fail(error)
        if not self.close_connection:
            self.connection.finish_request()

    def parse(self, head: bytes) -> None:
        """Replaces http.server's parse_request, whose email parser silently drops what follows a malformed
        field, where a proxy may not, and takes as long as all the rest of a short request."""
        request_line, *fields = head[:-4].decode("latin-1").split("\r\n")
        match = REQUEST_LINE.fullmatch(request_line)
        if not match:
            raise RequestError(400, "the request line is malformed")
        self.command, self.path, self.request_version = match.groups()
        self.headers = {}
        for field in fields:
            match = FIELD.fullmatch(field)
            if not match:
                raise RequestError(400, "a header field is malformed")
            name, value = match[1].lower(), match[2].strip(" \t")
            # Joined as a list (RFC 9110, 5.3). What must be there only once is not valid as a list of two.
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        if self.request_version == "HTTP/1.1" and not HOST.fullmatch(self.headers.get("host", "")):
            raise RequestError(400, "a request has one Host field")
        options = self.headers.get("connection", "").lower()
        self.close_connection = self.request_version == "HTTP/1.0" or CLOSE.search(options) is not None
        self.url_path, _, query = self.path.partition("?")
        if not self.path.startswith("/"):  # the absolute form (RFC 9112, 3.2.2)
            try:
                _, _, self.url_path, query, _ = urlsplit(self.path)
            except ValueError:
                raise RequestError(400, "the request target is malformed") from None
        self.query = parse_qs(query) if query else {}
        self.body_is_unread = "content-length" in self.headers or "transfer-encoding" in self.headers

    def read_body(self) -> None:
        """Receives the whole body, within BODY_TIMEOUT in all rather than for each read. http.server would
        leave it where it is, to be taken for the next request. rule: stalled-body-bounded"""
        if not self.body_is_unread:
            return
        settings = self.app.settings.current
        limit, deadline = settings.max_body_bytes, time.monotonic() + settings.body_timeout
        length = self.body_length()
        if length is not None and length > limit:
            raise RequestError(413, f"a body is at most {limit} bytes")
        if self.headers.get("expect", "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # rule: continue-answered
        try:
            if length is None:
                self.body = self.read_chunks(limit, deadline)
            else:
                self.body = self.connection.read(length, deadline)
        except TimeoutError:
            raise RequestError(408, "the body took too long") from None
        self.body_is_unread = False

    def body_length(self) -> int | None:
        """None for a chunked body; an error where a proxy may see another end of it (RFC 9112, 6.1)."""
        length = parse_integer(self.headers.get("content-length", "0"))
        coding = self.headers.get("transfer-encoding")
        if coding is None and length is not None:
            return length
        if coding == "chunked" and "content-length" not in self.headers and self.request_version == "HTTP/1.1":
            return None
        raise RequestError(400, "the length of the body is not clear")

    def read_chunks(self, limit: int, deadline: float) -> bytes:
        """Decodes a chunked body (RFC 9112, 7.1), which http.server does not."""
        body = bytearray()
        while True:
            match = CHUNK_SIZE.fullmatch(self.connection.read_line(MAX_LINE_BYTES, deadline))
            if not match:
                raise RequestError(400, "a chunk has no size")
            size = int(match[1], 16)
            if len(body) + size > limit:
                raise RequestError(413, f"a body is at most {limit} bytes")
            if size == 0:
                break
            body += self.connection.read(size, deadline)
            if self.connection.read(2, deadline) != b"\r\n":
                raise RequestError(400, "a chunk is longer than its size")
        for _ in range(MAX_TRAILERS):
            if not self.connection.read_line(MAX_LINE_BYTES, deadline):
                return bytes(body)
        raise RequestError(400, "too many trailers")

    def send_head(self, status: int, *fields: str, body: bytes = b"") -> None:
        """Adds what belongs to every response, at the last moment: the phase may have changed since the
        request came. rule: in-flight-answered"""
        if status < 400 and REQUEST_ID.fullmatch(self.headers.get("x-request-id", "")):
            log_event("executed", request_id=self.headers["x-request-id"])
        if self.app.lifecycle.stopping():  # http.server then reads no further request. rule: pipelined-in-order
            self.close_connection = True
        lines = [
            f"HTTP/1.1 {status} {self.responses[status][0]}",
            f"Date: {http_date(int(time.time()))}",
            f"X-Instance-Id: {self.app.instance}",
            *fields,
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self.connection.send(head.encode("latin-1") + body)

    def send(self, status: int, content_type: str, body: bytes, *fields: str) -> None:
        fields = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *fields)
        self.send_head(status, *fields, body=b"" if self.command == "HEAD" else body)

    def send_json(self, status: int, *fields: str, **members: object) -> None:
        self.send(status, "application/json", encode(members), *fields)

    def begin_chunks(self, content_type: str) -> None:
        """Begins a response of unknown length. A client that speaks HTTP/1.0 takes our FIN for its end."""
        self.chunked = self.request_version == "HTTP/1.1"
        fields = ["Transfer-Encoding: chunked"] if self.chunked else []
        self.send_head(200, f"Content-Type: {content_type}", *fields)

    def send_chunk(self, data: bytes) -> None:
        self.connection.send(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def end_chunks(self) -> None:
        if self.chunked:
            self.connection.send(b"0\r\n\r\n")

    def fail(self, error: RequestError) -> None:
        if self.body_is_unread:
            self.close_connection = True  # or it would be taken for the next request
        self.send_json(error.status, *error.fields, error=error.reason)

    def seconds(self, name: str, fallback: str, limit: float) -> float:
        text = self.query.get(name, [fallback])[0]
        value = parse_seconds(text, limit)
        if value is None:
            raise RequestError(422, f"{name}: {json.dumps(text)} is not decimal seconds from 0 to {limit}")
        return value

    def integer(self, name: str, fallback: int, low: int, high: int) -> int:
        text = self.query.get(name, [str(fallback)])[0]
        value = parse_integer(text)
        if value is None or not low <= value <= high:
            raise RequestError(422, f"{name}: {json.dumps(text)} is not an integer from {low} to {high}")
        return value


TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+) (HTTP/1\.[01])")
FIELD = re.compile(rf"({TOKEN}):([^\r\n\0]*)")  # linear: an optional blank around the value would not be
HOST = re.compile(r"[^\s,]+")
CLOSE = re.compile(r"(^|[\s,])close($|[\s,])")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n\0]*)?")
MAX_LINE_BYTES = 1024  # of a chunk's size or a trailer
MAX_TRAILERS = 32


@functools.lru_cache(maxsize=1)
def http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def log_event(event: str, **fields: object) -> None:
    """Writes one JSON line to standard output, at once: its reader may be waiting for it."""
    with STDOUT, contextlib.suppress(OSError):  # a reader that left is no reason to lose a request
        os.write(1, encode({"event": event, **fields}))


STDOUT = threading.Lock()


def encode(members: dict[str, object]) -> bytes:
    """Writes names and values, in their order, as one line of JSON."""
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"
