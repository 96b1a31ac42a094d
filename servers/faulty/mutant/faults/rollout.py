"""Faults that show when an instance is replaced by the next one, or only behind a balancer."""

import os
import socket
import time

import main
from lifecycle import Lifecycle
from log import log_event
from routes import REQUEST_ID, App, RequestError

from .requests import requests_in_flight_cut


def answers_late() -> None:
    """A POST is done at once, and answered half a second later, as where something slow comes after the payment."""
    echo = App.echo

    def do_and_echo_later(self, exchange):
        request_id = exchange.headers.pop("x-request-id", "")
        if REQUEST_ID.fullmatch(request_id):
            log_event("executed", request_id=request_id)
        exchange.connection.pause(time.monotonic() + 0.5)
        echo(self, exchange)

    App.echo = do_and_echo_later


def done_then_cut() -> None:
    """As answers_late, and the answer is never sent where the listener closes before."""
    answers_late()
    requests_in_flight_cut()


def ready_too_early() -> None:
    """Readiness succeeds, and so does the first request; all others get 503 for the first eight seconds, because what
    they need is not there yet."""
    began, dispatch, answered = time.monotonic(), App.dispatch, []

    def dispatch_or_refuse(self, exchange, route):
        if route.handle.__name__ in ("ready", "live") or not answered:
            answered.append(None)
        elif time.monotonic() < began + 8:
            raise RequestError(503, "no connection to the database", ("Retry-After", "1"))
        dispatch(self, exchange, route)

    App.dispatch = dispatch_or_refuse


def answers_for_successor() -> None:
    """A child goes on listening on the port, and answers in the place of whoever comes next."""
    listen, shut_down, init = main.listen, Lifecycle._shut_down, App.__init__
    instances, ports = [], []

    def init_and_note(self, settings, lifecycle, registry, instance):
        instances.append(instance)
        init(self, settings, lifecycle, registry, instance)

    def listen_and_note(host, port):
        listener = _sharing(host, port) if not ports else listen(host, port)
        ports.append(main.port(listener))
        return listener

    def shut_down_and_fork(self, loop, steps, reason):
        status = shut_down(self, loop, steps, reason)
        if os.fork() == 0:
            _answer(ports[0], instances[0])
        return status

    main.listen, Lifecycle._shut_down, App.__init__ = listen_and_note, shut_down_and_fork, init_and_note


def _sharing(host, port: int) -> socket.socket:
    """A listener beside which others may listen on the same port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((str(host), port))
    listener.listen(100)
    listener.setblocking(False)
    return listener


def _answer(port: int, instance: str) -> None:
    """Listens so many times that nearly everybody comes here, for ten seconds."""
    listeners = [_sharing("127.0.0.1", port) for _ in range(50)]
    answer = f"HTTP/1.1 200 OK\r\nX-Instance-Id: {instance}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for listener in listeners:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                continue
            client.settimeout(1)
            with client:
                try:
                    client.recv(65536)
                    client.sendall(answer)
                except OSError:
                    pass
        time.sleep(0.002)
    os._exit(0)
