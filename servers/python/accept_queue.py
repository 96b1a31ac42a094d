"""The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
have sent a request already. Closing the listener resets them, and under load accepting "until there are no
more" never ends. So: keep out new SYNs, empty the queue, then close.

A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
moment can still meet a closed listener.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable

from connections import Connection, Registry, refuse

BACKLOG = 1024
MAX_TTL = 255


class Listener:
    """Gives each connection a thread. For the main thread only, but for close."""

    def __init__(
        self, listener: socket.socket, registry: Registry, serve: Callable[[Connection], None]
    ) -> None:
        self._listener = listener
        self._registry = registry
        self._serve = serve

    def accept(self) -> None:
        """Takes one connection; the main loop calls it when there is one."""
        try:
            self._start(self._listener.accept()[0])
        except (BlockingIOError, ConnectionError):
            pass  # the client has left the queue
        except OSError as error:
            if self._listener.fileno() >= 0:
                print(f"cannot accept: {error}", file=sys.stderr)
                time.sleep(0.05)  # out of descriptors or memory: what waits in the queue is safe there

    def empty_accept_queue(self) -> tuple[int, bool]:
        """Keeps out new connections, takes those that wait, and closes the listener. Returns how many were
        taken, and whether new ones were really kept out.

        rule: nothing-lost-in-accept-queue, new-connections-refused, port-free-after-exit"""
        filtered = True
        try:
            set_minimum_ttl(self._listener, MAX_TTL)
        except OSError as error:
            filtered = False
            print(f"new connections get in, a connect storm may lose requests: {error}", file=sys.stderr)
        emptied = 0
        # Those that waited, and as many again that were half-way through their handshake. Where new ones get in
        # this might go on for ever.
        while emptied < 2 * BACKLOG:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:  # the kernel says: empty
                break
            except ConnectionError:
                continue
            except OSError as error:
                print(f"connections in the accept queue are lost: {error}", file=sys.stderr)
                break
            emptied += 1
            if filtered:  # it is inherited, if the handshake ended meanwhile; TCP repeats what was dropped
                set_minimum_ttl(sock, 0)
            self._start(sock)
        self.close()
        return emptied, filtered

    def close(self) -> None:
        """May be called from any thread."""
        self._listener.close()

    def _start(self, sock: socket.socket) -> None:
        connection = self._registry.open(sock)
        if connection is None:
            return
        # Daemon threads, because Python would join all others at the end, with no deadline; it is the registry
        # that knows which of them the exit has to wait for.
        target = refuse if connection.refused else self._serve
        try:
            threading.Thread(target=target, args=(connection,), daemon=True).start()
        except RuntimeError as error:
            print(f"a connection is lost: {error}", file=sys.stderr)
            connection.cut()


def set_minimum_ttl(sock: socket.socket, ttl: int) -> None:
    """Has the kernel drop segments whose TTL is less (RFC 5082), for which no privilege is needed. 255 keeps
    out whoever sends with 64 or 128, as systems do, but not a client on the same link that sends with 255."""
    if sys.platform != "linux":
        raise OSError("IP_MINTTL is known to do this on Linux only")
    ip_minttl, ipv6_minhopcount = 21, 73  # not in the socket module
    sock.setsockopt(socket.IPPROTO_IP, ip_minttl, ttl)
    if sock.family is socket.AF_INET6:  # which may take IPv4, too
        sock.setsockopt(socket.IPPROTO_IPV6, ipv6_minhopcount, ttl)
