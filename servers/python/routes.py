"""Routes: what the server answers, and the limits on what a client may send."""

import functools
import json
import re
import time
import traceback
from collections.abc import Callable
from email.utils import formatdate
from http.client import responses as PHRASES
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from config import DrainPolicy, Settings, parse_integer, parse_seconds
from connections import BLOCK, Connection, ConnectionState, Cut, Limit, Registry
from lifecycle import Lifecycle, Phase
from log import STDERR, STDOUT, encode, log_error, log_event

MAX_HEAD_BYTES = 16 << 10
MAX_SLOW = 300  # seconds
MAX_BYTES = 256 << 20
MAX_CHUNKS = 10_000
MAX_INTERVAL = 60  # seconds

Field = tuple[str, str]


class RequestError(Exception):
    """Ends a handler with an answer."""

    def __init__(self, status: int, reason: str, *fields: Field) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.fields = fields


class Route(NamedTuple):
    method: str
    path: str
    handle: Callable[["Exchange"], None]
    limit: Limit = Limit.IN_FLIGHT
    rejects: bool = False


class App:
    """What the handlers share, and the handlers. Each runs in the thread of its connection."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, registry: Registry, instance: str) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.registry = registry
        self.instance = instance
        self._routes = self.routes()
        self._admin_routes = self.admin_routes()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", self.root),
            Route("GET", "/slow", self.slow),
            Route("POST", "/echo", self.echo),
            Route("GET", "/bytes", self.bytes),
            Route("GET", "/stream", self.stream),
            Route("GET", "/events", self.events, Limit.STREAMS),
            *self.health_routes(),
        ]

    def admin_routes(self) -> list[Route]:
        return [
            Route("GET", "/metrics", self.metrics, Limit.NONE),
            Route("GET", "/prestop", self.prestop, Limit.NONE),
            Route("POST", "/prestop", self.prestop, Limit.NONE),
            *self.health_routes(),
        ]

    def health_routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self.ready, Limit.NONE),
            Route("GET", "/health/live", self.live, Limit.NONE),
            Route("GET", "/health/ready", self.ready, Limit.NONE),
        ]

    def serve(self, connection: Connection) -> None:
        """Serves a connection of the traffic listener."""
        Exchange.serve(connection, self, self.handle)

    def serve_admin(self, connection: Connection) -> None:
        """Serves a connection of the admin listener."""
        Exchange.serve(connection, self, self.handle_admin)

    def handle(self, exchange: "Exchange") -> None:
        """Answers traffic: every request is counted, limited and in flight until it is answered."""
        route = find(self._routes, exchange)
        admitted = exchange.connection.registry.begin_request(exchange.connection, route.limit)
        reject = self.settings.current.drain_policy is DrainPolicy.REJECT
        if reject and self.lifecycle.phase() >= Phase.DRAINING:
            raise RequestError(503, "shutting down", ("Retry-After", "1"))
        if not admitted:
            raise RequestError(429, "too many requests in flight", ("Retry-After", "1"))
        self.dispatch(exchange, route)

    def handle_admin(self, exchange: "Exchange") -> None:
        """Answers on the admin listener, whose requests are nobody's traffic."""
        route = find(self._admin_routes, exchange)
        exchange.connection.registry.begin_request(exchange.connection, route.limit)
        self.dispatch(exchange, route)

    def dispatch(self, exchange: "Exchange", route: Route) -> None:
        if not route.rejects or not exchange.http.they_are_waiting_for_100_continue:
            exchange.read_body()  # of a request that is rejected it is not invited
        route.handle(exchange)

    def root(self, exchange: "Exchange") -> None:
        exchange.send_json(200, server="python", phase=str(self.lifecycle.phase()))

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
        exchange.send_head(200, ("Content-Type", "application/octet-stream"), ("Content-Length", str(size)))
        block = bytes(BLOCK)
        for _ in range(size // BLOCK):
            exchange.send_body(block)
        exchange.send_body(block[: size % BLOCK])
        exchange.end()

    def stream(self, exchange: "Exchange") -> None:
        """Is finite: it ends by itself, and a shutdown waits for that. rule: response-untruncated"""
        chunks = exchange.integer("chunks", 10, 1, MAX_CHUNKS)
        interval = exchange.seconds("interval", "0.1", MAX_INTERVAL)
        exchange.send_head(200, ("Content-Type", "text/plain"))
        for number in range(0 if exchange.command == "HEAD" else chunks):
            if number > 0:
                exchange.connection.pause(time.monotonic() + interval)
            exchange.send_body(b"chunk %d\n" % number)
        exchange.end()

    def events(self, exchange: "Exchange") -> None:
        """Has no end of its own: it gets its final chunk when the listener closes. rule: endless-stream-ends"""
        exchange.send_head(200, ("Content-Type", "text/event-stream"))
        listener_closed = self.lifecycle.listener_closed()
        tick = time.monotonic()
        number = 0
        while True:
            exchange.send_body(b"data: %d\n\n" % number)
            tick += 1
            exchange.connection.pause(tick, listener_closed)
            if listener_closed.is_set():
                break
            number += 1
        exchange.end()

    def live(self, exchange: "Exchange") -> None:
        """Says that a restart would not help; a shutdown is no reason for one. rule: liveness-stays"""
        exchange.send_json(200, phase=str(self.lifecycle.phase()))

    def ready(self, exchange: "Exchange") -> None:
        status = 200 if self.lifecycle.is_ready() else 503
        exchange.send_json(status, phase=str(self.lifecycle.phase()))

    def metrics(self, exchange: "Exchange") -> None:
        in_flight, states = self.registry.count()
        lines = ["# TYPE http_requests_in_flight gauge", f"http_requests_in_flight {in_flight}"]
        lines.append("# TYPE http_connections gauge")
        for state in (ConnectionState.UNUSED, ConnectionState.ACTIVE, ConnectionState.IDLE):
            lines.append(f'http_connections{{state="{state.value}"}} {states[state]}')
        lines.append("# TYPE lifecycle_phase gauge")
        lines.append(f'lifecycle_phase{{phase="{self.lifecycle.phase()}"}} 1')
        lines.append("# TYPE log_lines_dropped_total counter")
        for stream in (STDOUT, STDERR):
            lines.append(f'log_lines_dropped_total{{stream="{stream.name}"}} {stream.dropped}')
        exchange.send(200, "text/plain; version=0.0.4", "".join(f"{line}\n" for line in lines).encode())

    def prestop(self, exchange: "Exchange") -> None:
        """Takes the server out of rotation and answers when traffic has had time to go elsewhere. It stops
        nothing: the signal comes from whoever called. rule: prestop-waits, prestop-keeps-process"""
        exchange.connection.pause(self.lifecycle.begin_lame_duck("prestop"))  # rule: lame-duck-serves
        exchange.send_json(200, phase=str(self.lifecycle.phase()))


class Exchange:
    """A request and its response, one pair after the other on a connection. h11 knows what a request is, as it does for
    uvicorn and httpcore; Connection knows deadlines. Responses are written here: to have h11 check our own took as long
    as to have it read the request."""

    @classmethod
    def serve(cls, connection: Connection, app: App, answer: Callable[["Exchange"], None]) -> None:
        """Serves a connection to its end."""
        try:
            cls(connection, app, answer).handle()
        except (Cut, TimeoutError):
            connection.cut()
            return
        except OSError:
            pass  # nobody is left to answer
        except Exception:
            log_error(traceback.format_exc())
            connection.cut()  # a response that has begun must not look complete
            return
        connection.close()

    def __init__(self, connection: Connection, app: App, answer: Callable[["Exchange"], None]) -> None:
        self.connection = connection
        self.app = app
        self.answer = answer
        self.http = new_parser(b"")
        self.ahead = 0  # bytes of the next request that came with the last one
        self.close_connection = False

    def handle(self) -> None:
        while not self.close_connection:
            self.handle_one_request()

    def handle_one_request(self) -> None:
        self.command = ""
        self.version = b""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.body_is_unread = True
        try:
            request = self.receive_head()
            if request is None:
                self.close_connection = True
                return
            self.parse(request)
            self.answer(self)
        except RequestError as error:
            self.fail(error)
        except h11.RemoteProtocolError as error:
            self.fail(RequestError(error.error_status_hint, str(error)))
        if not self.close_connection:
            self.next_cycle()
            self.connection.registry.finish_request(self.connection)

    def next_cycle(self) -> None:
        """Goes on with what was received already, less empty lines (RFC 9112, 2.2). A parser that has not seen our
        response cannot be used again."""
        rest = self.http.trailing_data[0].lstrip(b"\r\n")
        self.http, self.ahead = new_parser(rest), len(rest)

    def receive_head(self) -> h11.Request | None:
        """Returns the head of the next request, whole, or None where nobody asks any more."""
        received = self.ahead
        deadline = self.connection.await_head(begun=received > 0)
        if deadline is None:
            return None
        while received == 0 or (event := self.http.next_event()) is h11.NEED_DATA:
            try:
                data = self.connection.receive(deadline)
            except TimeoutError:
                raise RequestError(408, "the head took too long") from None
            if received == 0:
                data = data.lstrip(b"\r\n")  # empty lines before a request are no part of it (RFC 9112, 2.2)
            if data:
                received += len(data)
                self.http.receive_data(data)
        if received - len(self.http.trailing_data[0]) > MAX_HEAD_BYTES:
            raise RequestError(431, f"a head is at most {MAX_HEAD_BYTES} bytes")
        return event

    def parse(self, request: h11.Request) -> None:
        """Takes a head apart, and rejects what h11 leaves to its caller."""
        self.command = request.method.decode()
        version = self.version = request.http_version
        for name, value in request.headers.raw_items():
            # Joined as a list (RFC 9110, 5.3). What must be there only once is not valid as a list of two.
            name, value = name.decode().lower(), value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        if not version.startswith(b"1."):
            raise RequestError(505, "this is an HTTP/1.1 server")
        if not HOST.fullmatch(self.headers.get("host", "" if version == b"1.0" else " ")):
            raise RequestError(400, "a request has one Host field")
        if "transfer-encoding" in self.headers and ("content-length" in self.headers or version == b"1.0"):
            raise RequestError(400, "the length of the body is not clear")  # RFC 9112, 6.1
        options = self.headers.get("connection")
        self.close_connection = version == b"1.0" or (options is not None and CLOSE.search(options) is not None)
        self.body_is_unread = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        try:
            # Also in the absolute form (RFC 9112, 3.2.2).
            target = request.target.decode()
            path, query = target.partition("?")[::2] if target.startswith("/") else urlsplit(target)[2:4]
        except ValueError:
            raise RequestError(400, "the request target is malformed") from None
        if BAD_ESCAPE.search(path):
            raise RequestError(400, "the request target is malformed")
        self.url_path = unquote(path) or "/"
        self.query = parse_qs(query) if query else {}

    def read_body(self) -> None:
        """Receives the whole body, within BODY_TIMEOUT in all rather than for each read.
        rule: stalled-body-bounded"""
        if not self.body_is_unread:
            return
        settings = self.app.settings.current
        deadline = time.monotonic() + settings.body_timeout
        too_large = RequestError(413, f"a body is at most {settings.max_body_bytes} bytes")
        if int(self.headers.get("content-length", "0")) > settings.max_body_bytes:
            raise too_large
        if self.http.they_are_waiting_for_100_continue:
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # rule: continue-answered
        body = bytearray()
        while type(event := self.http.next_event()) is not h11.EndOfMessage:
            if event is h11.NEED_DATA:
                try:
                    self.http.receive_data(self.connection.receive(deadline))
                except TimeoutError:
                    raise RequestError(408, "the body took too long") from None
            else:
                body += event.data
                if len(body) > settings.max_body_bytes:
                    raise too_large
        self.body = bytes(body)
        self.body_is_unread = False

    def send_head(self, status: int, *fields: Field, body: bytes | None = None) -> None:
        """Adds what belongs to every response, at the last moment: the phase may have changed since the request
        came. A body that is given is the whole of it."""
        request_id = self.headers.get("x-request-id")
        if request_id and status < 400 and REQUEST_ID.fullmatch(request_id):
            log_event("executed", request_id=request_id)
        if self.app.lifecycle.stopping():  # no further request is read. rule: pipelined-in-order
            self.close_connection = True
        lines = [
            f"HTTP/1.1 {status} {PHRASES[status]}",
            f"Date: {http_date(int(time.time()))}",
            f"X-Instance-Id: {self.app.instance}",
            *[f"{name}: {value}" for name, value in fields],
        ]
        if self.close_connection:
            lines.append("Connection: close")
        self.is_chunked = body is None and self.version != b"1.0" and "Content-Length" not in dict(fields)
        if self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
        data = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
        if body is not None and self.command != "HEAD":
            data += body
        self.connection.send(data)

    def send_body(self, data: bytes) -> None:
        """Sends a piece of a body, as a chunk where its length is unknown; of HEAD nothing."""
        if self.command != "HEAD":
            self.connection.send(b"%x\r\n%s\r\n" % (len(data), data) if self.is_chunked else data)

    def end(self) -> None:
        """Ends a body. A client that speaks HTTP/1.0 takes our FIN for its end."""
        if self.is_chunked and self.command != "HEAD":
            self.connection.send(b"0\r\n\r\n")

    def send(self, status: int, content_type: str, body: bytes, *fields: Field) -> None:
        self.send_head(status, ("Content-Type", content_type), ("Content-Length", str(len(body))), *fields, body=body)

    def send_json(self, status: int, *fields: Field, **members: object) -> None:
        self.send(status, "application/json", encode(members), *fields)

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


def find(routes: list[Route], exchange: Exchange) -> Route:
    """Returns the route of a request, or one that rejects it. HEAD is answered wherever GET is, but where a client
    would wait for ever."""
    allowed = []
    for route in routes:
        if route.path == exchange.url_path:
            methods = [route.method]
            if route.method == "GET" and route.limit is not Limit.STREAMS:
                methods.append("HEAD")
            if exchange.command in methods:
                return route
            allowed += methods

    def reject(exchange: Exchange) -> None:
        if not allowed:
            raise RequestError(404, "no such path")
        raise RequestError(405, "method not allowed", ("Allow", ", ".join(allowed)))

    return Route(exchange.command, exchange.url_path, reject, rejects=True)


def new_parser(received: bytes) -> h11.Connection:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    if received:
        parser.receive_data(received)
    return parser


HOST = re.compile(r"[^\s,/?#@\\]*")
CLOSE = re.compile(r"(^|[\s,])close($|[\s,])", re.IGNORECASE)
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@functools.lru_cache(maxsize=1)
def http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
