"""The accept queue: connections that the kernel has opened and that nobody has accepted yet. Their clients may
have sent a request already. Closing the listener resets them, and under load accepting "until there are no
more" never ends. So: keep out new SYNs, empty the queue, then close. rule: nothing-lost-in-accept-queue

A client whose SYN is dropped sends it again after a second and then reaches our successor, or is refused:
either way nothing of its request was lost. Beyond loopback, a handshake that is half done at this very
moment can still meet a closed listener.
"""

import ctypes
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

from connections import Connection, Registry, refuse

BACKLOG = 1024


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
        taken, and whether new ones were really kept out. rule: new-connections-refused, port-free-after-exit"""
        filtered = True
        try:
            drop_new_syns(self._listener)
        except OSError as error:
            filtered = False
            print(f"no filter on the listener, a connect storm may lose requests: {error}", file=sys.stderr)
        emptied = 0
        while filtered or emptied < BACKLOG:  # without the filter this might go on for ever
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


def drop_new_syns(listener: socket.socket) -> None:
    """Attaches a classic BPF program: a segment with SYN and without ACK is dropped, all others pass. The
    program sees the TCP header; its byte 13 holds the flags (RFC 9293, 3.1). Kernels of 2026 want CAP_NET_ADMIN
    for it, older ones nothing."""
    if sys.platform != "linux":
        raise OSError("this operating system has no SO_ATTACH_FILTER")
    syn, ack = 0x02, 0x10
    program = [  # struct sock_filter: code, jump if true, jump if false, k
        (0x30, 0, 0, 13),  # load byte 13
        (0x54, 0, 0, syn | ack),  # and
        (0x15, 0, 1, syn),  # equal? else skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass, whole
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    so_attach_filter = 26  # not in the socket module
    listener.setsockopt(
        socket.SOL_SOCKET, so_attach_filter, struct.pack("HP", len(program), ctypes.addressof(code))
    )
