"""The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may have
sent a request already, and closing the listener resets them. Others are half-way through their handshake: off loopback
that takes a round trip, and they will be there when the listener is gone. Under load accepting "until there are no
more" never ends. So: keep out new SYNs, wait for the handshakes that have begun, empty the queue, close.

A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused: either way
nothing of its request was lost. Not kept out are clients that send with a TTL of 255, and handshakes by SYN cookie:
these can still be reset. Where a lame-duck is longer than the withdrawal nobody comes any more, and none of this is
needed. Not for a socket that another process listens on, too: that one stays open, and so does its queue.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from connections import Connection, Registry
from log import log_error

BACKLOG = 65535  # the kernel cuts it down to the longest queue that it allows
MAX_TTL = 255
HANDSHAKE_TIMEOUT = 1.0  # seconds, for those that are half done when the listener is to close
ACCEPT_PAUSE = 0.05  # seconds, after an error that may pass
MOST_EMPTIED = 2 * BACKLOG  # clients with a TTL of 255 might go on for ever
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP = 4, 20, 0x301  # of linux/netlink.h and linux/sock_diag.h
NLMSG_ERROR, NLMSG_DONE = 2, 3
MOST_AT_ONCE = 32768  # bytes that the kernel sends in one part
SYN_RECV, LISTEN = 3, 10  # of linux/tcp.h
PERMANENT = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP)  # the listener will not work again


@dataclass
class Emptied:
    """What became of the accept queue."""

    emptied: int = 0  # connections taken
    minimum_ttl: bool = False  # whether the socket was given one
    half_open: int = 0  # handshakes that were given up on
    lost: int = 0  # connections that could not be taken
    error: OSError | None = None


class Listener:
    """Gives each connection a thread. For the main thread only, but for close."""

    def __init__(
        self,
        listener: socket.socket,
        registry: Registry,
        serve: Callable[[Connection], None],
        fail: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._registry = registry
        self._serve = serve
        self._fail = fail  # hears that the listener works no more
        self._table = SocketTable(listener)
        self._emptied: Emptied | None = None  # while the queue is emptied

    def accept(self) -> None:
        """Takes one connection; the main loop calls it when there is one."""
        try:
            self._start(self._listener.accept()[0])
        except (BlockingIOError, ConnectionError):
            pass  # the client has left the queue
        except OSError as error:
            if error.errno in PERMANENT:
                self._fail(f"cannot accept: {error}")
            else:
                log_error(f"cannot accept: {error}")
                time.sleep(ACCEPT_PAUSE)  # out of descriptors or memory: what waits in the queue is safe there

    def empty_accept_queue(self, turn: Callable[[float], None]) -> Emptied:
        """Keeps out new connections, takes those that wait and those that are half-way through their handshake, and
        closes the listener. Meanwhile turn answers whatever else comes.

        rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit"""
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        emptied = self._emptied = Emptied()  # first: whoever inherits the minimum TTL is then seen to
        try:
            set_minimum_ttl(self._listener, MAX_TTL)
            emptied.minimum_ttl = True
        except OSError as error:
            log_error(f"new connections get in, a connect storm may lose requests: {error}")
        self._accept_all(deadline)
        while self._half_open() and time.monotonic() < deadline and emptied.error is None:
            turn(deadline)  # the kernel tells when one has ended
            self._accept_all(deadline)
        # Once more, after the look: a handshake that ended in between is in the queue by now.
        self._accept_all(deadline)
        self.close()
        self._check_gone()
        return emptied

    def close(self) -> None:
        """Closes at once; may be called from any thread. Connections that were accepted stay open."""
        self._listener.close()

    def _half_open(self) -> int:
        try:
            self._emptied.half_open = self._table.look().half_open
        except OSError as error:
            log_error(f"handshakes that are half done may be lost: {error}")
            return 0
        return self._emptied.half_open

    def _check_gone(self) -> None:
        """Notices another process that listens on the same socket."""
        with contextlib.suppress(OSError):  # _half_open has said so
            if self._table.look().listening:
                self._fail_emptied(
                    f"another process listens on the same socket, and the minimum TTL of {MAX_TTL} now keeps out its "
                    "clients: leave a shared socket alone, it needs none of this"
                )

    def _accept_all(self, deadline: float) -> None:
        """Accepts until the kernel says that the queue is empty; where new ones get in, not beyond the deadline."""
        while self._emptied.error is None:
            goes_on = self._emptied.minimum_ttl or time.monotonic() < deadline
            if not goes_on or self._emptied.emptied >= MOST_EMPTIED:
                self._lose("others kept coming")
                return
            try:
                self._start(self._listener.accept()[0])
            except BlockingIOError:
                return
            except ConnectionError:
                pass
            except OSError as error:
                if error.errno in PERMANENT:
                    self._fail_emptied(f"cannot accept: {error}")
                elif time.monotonic() >= deadline:
                    self._lose(error)
                else:
                    time.sleep(ACCEPT_PAUSE)  # those that wait are safe as long as the listener is open

    def _lose(self, reason: object) -> None:
        """Counts those that still wait, and cannot be taken."""
        waiting = 0
        with contextlib.suppress(OSError):
            waiting = self._table.look().waiting
        self._emptied.lost = max(1, waiting)
        self._fail_emptied(f"{self._emptied.lost} connections in the accept queue are lost: {reason}")

    def _fail_emptied(self, reason: str) -> None:
        log_error(reason)
        self._emptied.error = self._emptied.error or OSError(reason)

    def _start(self, sock: socket.socket) -> None:
        if self._emptied is not None:
            self._emptied.emptied += 1
            # Inherited, if the handshake ended meanwhile; TCP repeats what was dropped.
            if self._emptied.minimum_ttl:
                set_minimum_ttl(sock, 0)
        connection = self._registry.open(sock)
        if connection is None:
            return
        # Daemon threads, because Python would join all others at the end, with no deadline; it is the registry
        # that knows which of them the exit has to wait for.
        target = Connection.refuse if connection.refused else self._serve
        try:
            threading.Thread(target=target, args=(connection,), daemon=True).start()
        except RuntimeError as error:
            connection.cut()
            if self._emptied is None:
                log_error(f"a connection is lost: {error}")
            else:
                self._emptied.lost += 1
                self._fail_emptied(f"a connection of the accept queue is lost: {error}")


class SocketTable:
    """What the kernel tells of the port of a listener, asked as ss asks (sock_diag(7)). /proc/net/tcp says the same,
    but takes far longer to read on a machine with much memory. The netlink socket stays open, because there may be no
    descriptor left when it is needed."""

    def __init__(self, listener: socket.socket) -> None:
        self.half_open = 0  # handshakes that have begun and not ended
        self.waiting = 0  # connections in the accept queue
        self.listening = False  # whether the socket is there, in whatever process
        self._families = {socket.AF_INET, listener.family}  # one for IPv6 may take IPv4, too
        self._port = listener.getsockname()[1]
        self._inode = os.fstat(listener.fileno()).st_ino
        self._netlink = None
        with contextlib.suppress(AttributeError, OSError):  # other systems
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)

    def look(self) -> "SocketTable":
        if self._netlink is None:
            raise OSError("the kernel tells nothing of its sockets")
        self.half_open, self.waiting, self.listening = 0, 0, False
        states = 1 << SYN_RECV | 1 << LISTEN
        for family in self._families:
            query = struct.pack(
                "=IHHIIBBBxI", 72, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 0, 0, family, socket.IPPROTO_TCP, 0, states
            )
            query += struct.pack("!H46x", self._port)
            self._netlink.send(query)
            while self._read(self._netlink.recv(MOST_AT_ONCE)):
                pass
        return self

    def _read(self, messages: bytes) -> bool:
        """Reads what came at once, and returns whether there is more to come."""
        while messages:
            length, kind = struct.unpack_from("=IH", messages)
            if kind == NLMSG_DONE:
                return False
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", messages, 16)
                raise OSError(f"the kernel tells nothing of its sockets: {os.strerror(-code)}")
            state, waiting, inode = struct.unpack_from("=x B 54x I 8x I", messages, 16)
            if state == SYN_RECV:
                self.half_open += 1
            elif inode == self._inode:
                self.waiting, self.listening = waiting, True
            messages = messages[length:]
        return True


def set_minimum_ttl(sock: socket.socket, ttl: int) -> None:
    """Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps
    out whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255."""
    if sys.platform != "linux":
        raise OSError("IP_MINTTL is known to do this on Linux only")
    ip_minttl, ipv6_minhopcount = 21, 73  # not in the socket module
    sock.setsockopt(socket.IPPROTO_IP, ip_minttl, ttl)
    if sock.family is socket.AF_INET6:  # which may take IPv4, too
        sock.setsockopt(socket.IPPROTO_IPV6, ipv6_minhopcount, ttl)
