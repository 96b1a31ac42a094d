"""Connections: who is connected, in which state, and how a connection ends without losing anything."""

import contextlib
import select
import socket
import struct
import threading
import time
from enum import Enum

from config import Settings
from lifecycle import Latch

MAX_HEAD_BYTES = 16 << 10
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


class RequestError(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, reason: str, *fields: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.fields = fields


class Cut(Exception):
    """The drain deadline has passed."""


class Connection:
    """Sits between http.server and the socket: it sees the first byte of each request, holds deadlines for
    whole heads and bodies, where a socket's own time-out starts again with each byte, and closes by FIN.

    Only the thread of the connection may call it, and nobody else touches the socket: whoever wants something
    of all connections sets a latch, for which they wait together with their socket."""

    def __init__(self, sock: socket.socket, registry: "Registry", refused: bool) -> None:
        self.refused = refused  # above MAX_CONNECTIONS
        self.state = ConnectionState.UNUSED  # this one and the next are guarded by the registry's lock
        self.in_flight = False  # a whole head has come, its response is not complete
        self._sock = sock
        self._fd = sock.fileno()
        self._polls: dict[tuple[int, Latch], select.poll] = {}
        self._registry = registry
        self._buffer = bytearray()  # received, and not yet part of a request
        self._opened = time.monotonic()
        sock.setblocking(False)
        # Or the last, short segment of a response waits for the client's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive_head(self) -> bytes:
        """Returns the head of the next request, whole, or b"" where nobody asks any more."""
        timeout = self._registry.settings.current.header_timeout
        unused = self.state is ConnectionState.UNUSED
        if not self._buffer and not self._await_request():
            return b""
        self._registry.activate(self)
        deadline = (self._opened if unused else time.monotonic()) + timeout  # rule: slow-head-bounded
        try:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0 and len(self._buffer) < MAX_HEAD_BYTES:
                self._receive(deadline)
        except TimeoutError:
            raise RequestError(408, "the head took too long") from None
        if not 0 <= end <= MAX_HEAD_BYTES - 4:
            raise RequestError(431, f"a head is at most {MAX_HEAD_BYTES} bytes")
        return self.read(end + 4, deadline)

    def _await_request(self) -> bool:
        """Waits for the first byte of a request. False where none came in time, or the client has left."""
        registry, settings = self._registry, self._registry.settings.current
        idle_since = time.monotonic()
        if self.state is ConnectionState.UNUSED:
            deadline = self._opened + settings.header_timeout
        else:
            deadline = idle_since + settings.keep_alive_timeout
        # Ends also when the listener closes. An unused connection is treated as an idle one.
        # rule: unused-holds-nothing
        if not self._wait(select.POLLIN, deadline, registry.draining) and registry.draining.is_set():
            # One last chance. rule: late-request-answered
            linger = registry.settings.current.idle_linger
            linger_deadline = max(idle_since, registry.drain_began) + linger  # rule: idle-holds-nothing
            self._wait(select.POLLIN, min(deadline, linger_deadline), registry.cut)
        # Whatever the deadline says: a request that has begun to arrive is served.
        # rule: nothing-lost-on-keep-alive
        try:
            return self._take()
        except BlockingIOError:
            return False

    def read(self, size: int, deadline: float) -> bytes:
        """Returns so many bytes; raises TimeoutError, or ConnectionError where the client left before."""
        while len(self._buffer) < size:
            self._receive(deadline)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_line(self, limit: int, deadline: float) -> bytes:
        """Returns a line without its CR LF."""
        while (end := self._buffer.find(b"\r\n")) < 0 and len(self._buffer) <= limit:
            self._receive(deadline)
        if not 0 <= end <= limit:
            raise RequestError(400, "a line is too long")
        return self.read(end + 2, deadline)[:-2]

    def _receive(self, deadline: float) -> None:
        """Receives what has come, or waits for more."""
        while True:
            try:
                if self._take():
                    return
            except BlockingIOError:
                if not self._wait(select.POLLIN, deadline, self._registry.cut):
                    raise TimeoutError from None
            else:
                raise ConnectionAbortedError("the client left in the middle of a request")

    def _take(self) -> bool:
        """Takes what the kernel has received; False at the end, BlockingIOError where there is nothing."""
        data = self._sock.recv(BLOCK)
        self._buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        """Sends all of it, for however long a slow reader takes; only the drain deadline ends that."""
        rest = memoryview(data)
        while rest:
            if self._registry.cut.is_set():
                raise Cut
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, None, self._registry.cut)

    def pause(self, deadline: float, latch: Latch | None = None) -> None:
        """Waits for the deadline, or the latch. Raises ConnectionError where the client leaves."""
        if self._wait(CLIENT_LEFT, deadline, latch or self._registry.cut):
            raise ConnectionAbortedError("the client left before its response")

    def finish_request(self) -> None:
        """The last byte of a response that did not say "close" was sent."""
        self._registry.finish_request(self)

    def close(self) -> None:
        """Closing a socket with unread input would send RST and could destroy the response on its way
        (RFC 9112, 9.6), so: FIN, discard, close."""
        with contextlib.suppress(OSError, Cut):
            self._half_close()
            deadline = time.monotonic() + self._registry.settings.current.close_timeout
            while self._wait(select.POLLIN, deadline, self._registry.cut) and self._sock.recv(BLOCK):
                pass
        self._sock.close()
        self._registry.forget(self)

    def _half_close(self) -> None:
        """Sends FIN after everything that was sent. rule: idle-closed-by-fin"""
        self._registry.set_closing(self)
        self._sock.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """By RST, because a FIN can look like the end of a response that has no length. rule: cut-is-visible"""
        if self.in_flight:
            linger_on_for_no_time = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_on_for_no_time)
        self._sock.close()
        self._registry.set_closing(self)
        self._registry.forget(self)

    def _wait(self, events: int, deadline: float | None, latch: Latch) -> bool:
        """Waits until the socket is ready (True), or the deadline has passed or the latch is set (False)."""
        poll = self._polls.get((events, latch)) or self._new_poll(events, latch)
        ready = poll.poll(None if deadline is None else max(0, deadline - time.monotonic()) * 1000)
        if self._registry.cut.is_set():
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
        self.cut = Latch()
        self.drained = Latch()  # after begin_drain, no connection is left. rule: load-does-not-hold-exit
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._in_flight = 0

    def open(self, sock: socket.socket) -> Connection | None:
        """Registers a connection, to be refused where there are too many. Above twice the limit there is not
        even a thread to refuse it politely."""
        limit = self.settings.current.max_connections
        with self._lock:
            if len(self._connections) >= 2 * limit:
                sock.close()
                return None
            connection = Connection(sock, self, refused=len(self._connections) >= limit)
            self._connections.add(connection)
            return connection

    def activate(self, connection: Connection) -> None:
        """Notes that a byte of a request has come."""
        with self._lock:
            connection.state = ConnectionState.ACTIVE

    def begin_request(self, connection: Connection, exempt: bool) -> bool:
        """Counts a request whose head is complete. False above MAX_IN_FLIGHT. rule: overload-sheds"""
        with self._lock:
            connection.in_flight = True
            self._in_flight += 1
            return exempt or self._in_flight <= self.settings.current.max_in_flight

    def finish_request(self, connection: Connection) -> None:
        with self._lock:
            self._finish_request_locked(connection)
            connection.state = ConnectionState.IDLE

    def _finish_request_locked(self, connection: Connection) -> None:
        if connection.in_flight:
            connection.in_flight = False
            self._in_flight -= 1

    def begin_drain(self) -> None:
        """Called once, when the listener has closed: whoever is idle, or becomes idle, may ask once more."""
        with self._lock:
            self.drain_began = time.monotonic()
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
            self._connections.discard(connection)
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
            return self._in_flight, states


def refuse(connection: Connection) -> None:
    """Answers a connection above MAX_CONNECTIONS without waiting for its request."""
    body = b'{"error":"too many connections"}\n'
    with contextlib.suppress(OSError, Cut):
        connection.send(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Retry-After: 1\r\nConnection: close\r\n\r\n%s" % (len(body), body)
        )
    connection.close()
