"""Connections: who is connected, in which state, and how a connection ends without losing anything."""

import contextlib
import select
import socket
import struct
import threading
import time
from enum import Enum, IntEnum

from config import Settings
from lifecycle import Latch

BLOCK = 64 << 10

# Reports that the client has closed its side even while bytes of it wait to be read. Where the system does not
# have it, poll(2) reports POLLHUP unasked.
CLIENT_LEFT = getattr(select, "POLLRDHUP", select.POLLHUP)


class ConnectionState(Enum):
    """Where a connection stands between two requests."""

    UNUSED = "unused"  # open, and no byte has come. Becomes active or closing.
    ACTIVE = "active"  # from the first byte of a request to the last of its response. Becomes idle or closing.
    IDLE = "idle"  # between two requests. Becomes active or closing.
    CLOSING = "closing"  # our FIN is out, or about to be; what still comes is discarded.


class Limit(IntEnum):
    """What a request counts against."""

    IN_FLIGHT = 0
    STREAMS = 1  # apart, because endless ones would use up MAX_IN_FLIGHT for ever
    NONE = 2  # a probe must get through under load


class Cut(Exception):
    """The drain deadline has passed."""


class Connection:
    """Sits between h11 and the socket: it sees the first byte of each request, holds deadlines for whole heads and
    bodies, where a socket's own time-out starts again with each byte, and closes by FIN.

    Only the thread of the connection may call it, and nobody else touches the socket: whoever wants something
    of all connections sets a latch, for which they wait together with their socket."""

    def __init__(self, sock: socket.socket, registry: "Registry", refused: bool) -> None:
        self.refused = refused  # above MAX_CONNECTIONS
        self.state = ConnectionState.UNUSED  # this one and the next are guarded by the registry's lock
        self.in_flight = False  # a whole head has come, its response is not complete
        self.limit = Limit.NONE  # what the request in flight counts against
        self._sock = sock
        self._fd = sock.fileno()
        self._polls: dict[tuple[int, Latch], select.poll] = {}
        self._arrived = b""  # received before anybody asked for it
        self.registry = registry
        self._opened = time.monotonic()
        sock.setblocking(False)
        # Or the last, short segment of a response waits for the client's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def await_head(self, begun: bool) -> float | None:
        """Waits until a request begins to arrive, unless it has, and returns the deadline for its head; None where
        nobody asks any more."""
        timeout = self.registry.settings.current.header_timeout
        unused = self.state is ConnectionState.UNUSED
        if not begun and not self._await_request():
            return None
        self.registry.activate(self)
        # rule: slow-head-bounded, half-request-holds-nothing
        return (self._opened if unused else time.monotonic()) + timeout

    def _await_request(self) -> bool:
        """Waits for the first byte of a request. False where none came in time, or the client has left."""
        # Whoever keeps asking has often asked by now.
        try:
            self._arrived = self._sock.recv(BLOCK)
        except BlockingIOError:
            self._arrived = b""
        if self._arrived:
            return True
        registry, settings = self.registry, self.registry.settings.current
        idle_since = time.monotonic()
        if self.state is ConnectionState.UNUSED:
            deadline = self._opened + settings.header_timeout
        else:
            # rule: keep-alive-outlasts-balancer
            deadline = idle_since + settings.keep_alive_timeout
        # Ends also when the listener closes. An unused connection is treated as an idle one.
        # rule: unused-holds-nothing
        arrived = self._wait(select.POLLIN, deadline, registry.draining)
        if not arrived and registry.draining.is_set():
            # One last chance. rule: late-request-answered
            linger_deadline = max(idle_since, registry.drain_began) + registry.linger  # rule: idle-holds-nothing
            arrived = self._wait(select.POLLIN, min(deadline, linger_deadline), registry.cut)
        # Whatever the deadline says: a request that has begun to arrive is served. Where the client has closed,
        # receive finds out. rule: nothing-lost-on-keep-alive, nothing-lost-in-peace
        return arrived or self._wait(select.POLLIN, time.monotonic(), registry.cut)

    def receive(self, deadline: float) -> bytes:
        """Returns what has come, or waits for more; raises TimeoutError, or ConnectionError where the client left."""
        while True:
            try:
                data, self._arrived = self._arrived or self._sock.recv(BLOCK), b""
            except BlockingIOError:
                if not self._wait(select.POLLIN, deadline, self.registry.cut):
                    raise TimeoutError from None
                continue
            if not data:
                raise ConnectionAbortedError("the client left in the middle of a request")
            return data

    def send(self, data: bytes) -> None:
        """Sends all of it, for however long a slow reader takes, as long as it takes anything: else TimeoutError.
        rule: slow-reader-bounded"""
        rest = memoryview(data)
        while rest:
            if self.registry.cut.is_set():
                raise Cut
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                deadline = time.monotonic() + self.registry.settings.current.write_timeout
                if not self._wait(select.POLLOUT, deadline, self.registry.cut):
                    raise TimeoutError("the client takes nothing of its response") from None

    def pause(self, deadline: float, latch: Latch | None = None) -> None:
        """Waits for the deadline, or the latch. Raises ConnectionError where the client leaves."""
        if self._wait(CLIENT_LEFT, deadline, latch or self.registry.cut):
            raise ConnectionAbortedError("the client left before its response")

    def close(self) -> None:
        """Closing a socket with unread input would send RST and could destroy the response on its way
        (RFC 9112, 9.6), so: FIN, discard, close."""
        with contextlib.suppress(OSError, Cut):
            self._half_close()
            # Once, whatever still comes. rule: kept-open-holds-nothing
            deadline = time.monotonic() + self.registry.settings.current.close_timeout
            while self._wait(select.POLLIN, deadline, self.registry.cut) and self._sock.recv(BLOCK):
                pass
        self._sock.close()
        self.registry.forget(self)

    def _half_close(self) -> None:
        """Sends FIN after everything that was sent. rule: idle-closed-by-fin"""
        self.registry.set_closing(self)
        self._sock.shutdown(socket.SHUT_WR)

    def refuse(self) -> None:
        """Answers a connection above MAX_CONNECTIONS without waiting for its request."""
        body = b'{"error":"too many connections"}\n'
        with contextlib.suppress(OSError, Cut):
            self.send(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                b"Retry-After: 1\r\nConnection: close\r\n\r\n%s" % (len(body), body)
            )
        self.close()

    def cut(self) -> None:
        """By RST, because a FIN can look like the end of a response that has no length. rule: cut-is-visible"""
        if self.in_flight:
            linger_on_for_no_time = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_on_for_no_time)
        self._sock.close()
        self.registry.set_closing(self)
        self.registry.forget(self)

    def _wait(self, events: int, deadline: float | None, latch: Latch) -> bool:
        """Waits until the socket is ready (True), or the deadline has passed or the latch is set (False)."""
        poll = self._polls.get((events, latch)) or self._new_poll(events, latch)
        ready = poll.poll(None if deadline is None else max(0, deadline - time.monotonic()) * 1000)
        if self.registry.cut.is_set():
            raise Cut
        return self._fd in dict(ready)

    def _new_poll(self, events: int, latch: Latch) -> select.poll:
        poll = self._polls[events, latch] = select.poll()
        poll.register(self._fd, events)
        poll.register(latch, select.POLLIN)
        return poll


class Registry:
    """Knows every open connection. Its methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = Latch()
        self.drain_began = 0.0
        self.linger = 0.0  # IDLE_LINGER as it was then
        self.cut = Latch()
        self.drained = Latch()  # after begin_drain, no connection is left. rule: load-does-not-hold-exit
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._connections: set[Connection] = set()
        self._refused = 0  # of the connections, those above MAX_CONNECTIONS
        self._in_flight = [0] * len(Limit)

    def open(self, sock: socket.socket) -> Connection | None:
        """Registers a connection, to be refused where there are too many. Above twice the limit there is not
        even a thread to refuse it politely."""
        limit = self.settings.current.max_connections
        with self._lock:
            if len(self._connections) >= 2 * limit:
                sock.close()
                return None
            connection = Connection(sock, self, refused=len(self._connections) - self._refused >= limit)
            self._refused += connection.refused
            self._connections.add(connection)
            return connection

    def activate(self, connection: Connection) -> None:
        """Notes that a byte of a request has come."""
        with self._lock:
            connection.state = ConnectionState.ACTIVE

    def begin_request(self, connection: Connection, limit: Limit) -> bool:
        """Counts a request whose head is complete. False above its limit. rule: overload-sheds"""
        settings = self.settings.current
        with self._lock:
            connection.in_flight = True
            connection.limit = limit
            self._in_flight[limit] += 1
            if limit is Limit.IN_FLIGHT:
                return self._in_flight[limit] <= settings.max_in_flight
            if limit is Limit.STREAMS:
                return self._in_flight[limit] <= settings.max_streams  # rule: streams-limited-apart
            return True

    def finish_request(self, connection: Connection) -> None:
        """Called when the last byte of a response that did not say "close" was sent."""
        with self._lock:
            self._finish_request_locked(connection)
            connection.state = ConnectionState.IDLE

    def _finish_request_locked(self, connection: Connection) -> None:
        if connection.in_flight:
            connection.in_flight = False
            self._in_flight[connection.limit] -= 1
            self._answered.notify_all()

    def answered(self) -> None:
        """Returns when no request is in flight."""
        with self._answered:
            self._answered.wait_for(lambda: not any(self._in_flight))

    def begin_drain(self) -> None:
        """Called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more."""
        with self._lock:
            self.drain_began = time.monotonic()
            self.linger = self.settings.current.idle_linger
            self.draining.set()
            self._report_drained_locked()

    def cut_in_flight(self) -> int:
        """Ends every connection at once and returns how many requests that costs."""
        with self._lock:
            self.cut.set()
            return sum(connection.in_flight for connection in self._connections)

    def set_closing(self, connection: Connection) -> None:
        with self._lock:
            connection.state = ConnectionState.CLOSING
            self._finish_request_locked(connection)

    def forget(self, connection: Connection) -> None:
        with self._lock:
            if connection in self._connections:
                self._connections.remove(connection)
                self._refused -= connection.refused
            self._report_drained_locked()

    def _report_drained_locked(self) -> None:
        if self.draining.is_set() and not self._connections:
            self.drained.set()

    def count(self) -> tuple[int, dict[ConnectionState, int]]:
        """Returns the requests in flight and the connections in each state, for /metrics."""
        with self._lock:
            states = dict.fromkeys(ConnectionState, 0)
            for connection in self._connections:
                states[connection.state] += 1
            return sum(self._in_flight), states
