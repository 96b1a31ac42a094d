"""Faults in how connections end: the listener, idle ones, and the clients behind them."""

import contextlib
import dataclasses
import os
import select
import socket
import struct
import time

import accept_queue
import main
from accept_queue import MAX_TTL, Emptied, Listener, set_minimum_ttl
from config import Config, DrainPolicy
from connections import BLOCK, CLIENT_LEFT, Connection, ConnectionState, Cut, Limit, Registry
from lifecycle import Latch, Lifecycle, Phase
from routes import App, Exchange, RequestError


def idle_closed_by_rst() -> None:
    """Connections on which nobody asks are closed by RST."""
    close = Connection.close

    def close_or_reset(self):
        if self.state in (ConnectionState.UNUSED, ConnectionState.IDLE):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
            self.registry.forget(self)
        else:
            close(self)

    Connection.close = close_or_reset


def idle_closed_at_once() -> None:
    """Idle connections are closed together with the listener, without a look at what is on its way."""
    _close_idle_on(lambda registry: registry.draining)


def listener_closes_last() -> None:
    """Idle connections are closed first, and the listener a moment later."""
    leaving = Latch()
    close_listener = Lifecycle._close_listener

    def close_idle_first(self, steps):
        leaving.set()
        time.sleep(0.2)
        return close_listener(self, steps)

    _close_idle_on(lambda registry: leaving)
    Lifecycle._close_listener = close_idle_first


def _close_idle_on(latch_of) -> None:
    """Closes idle connections as soon as a latch is set. Without a lame-duck nobody is told before that."""
    await_request = Connection._await_request

    def await_request_or(self):
        latch = latch_of(self.registry)
        if self.state is ConnectionState.IDLE:
            timeout = self.registry.settings.current.keep_alive_timeout
            self._wait(select.POLLIN, time.monotonic() + timeout, latch)
            if latch.is_set():
                return False
        return await_request(self)

    def stopping(self):
        return self.phase() >= (Phase.LAME_DUCK if self._shutdown_delay() > 0 else Phase.DRAINING)

    Connection._await_request, Lifecycle.stopping = await_request_or, stopping


def _is_late(lifecycle: Lifecycle) -> bool:
    """Whether a request that comes now is late: from the signal on, or from the end of the lame-duck."""
    return lifecycle.phase() >= (Phase.DRAINING if lifecycle._shutdown_delay() > 0 else Phase.LAME_DUCK)


def _hold_accept_back() -> None:
    """Lets the accept queue fill before it is dealt with, so that a race is not left to chance."""
    empty_accept_queue = Listener.empty_accept_queue

    def empty_later(self, turn):
        time.sleep(0.2)
        return empty_accept_queue(self, turn)

    Listener.empty_accept_queue = empty_later


def idle_holds_exit() -> None:
    """Idle connections are waited for until the drain deadline."""
    _wait_for(ConnectionState.IDLE)


def unused_holds_exit() -> None:
    """Connections that never sent a byte are waited for until the drain deadline."""
    _wait_for(ConnectionState.UNUSED)


def _wait_for(state: ConnectionState) -> None:
    await_request = Connection._await_request

    def await_request_for_ever(self):
        if self.state is state:
            self._wait(select.POLLIN, None, self.registry.cut)
        return await_request(self)

    Connection._await_request = await_request_for_ever


def linger_too_short() -> None:
    """Idle connections linger for a tenth of IDLE_LINGER."""
    _configured(lambda config: {"idle_linger": config.idle_linger / 10})


def client_ignoring_fin_holds_exit() -> None:
    """After its own FIN the server waits for that of the client, until the drain deadline."""
    _configured(lambda config: {"close_timeout": 24 * 3600})


def close_timeout_per_read() -> None:
    """Each byte that comes after the server's FIN grants another CLOSE_TIMEOUT."""

    def discard_for_ever(self):
        with contextlib.suppress(OSError, Cut):
            self._half_close()
            timeout = self.registry.settings.current.close_timeout
            while self._wait(select.POLLIN, time.monotonic() + timeout, self.registry.cut) and self._sock.recv(BLOCK):
                pass
        self._sock.close()
        self.registry.forget(self)

    Connection.close = discard_for_ever


def answered_connection_left_to_client() -> None:
    """A response that is sent while requests drain says `close`, and it is left to the client to do it."""
    close = Connection.close

    def close_after_client(self):
        if self.in_flight and self.registry.draining.is_set():
            self.registry.set_closing(self)
            with contextlib.suppress(Cut):
                self._wait(CLIENT_LEFT, None, self.registry.cut)
        close(self)

    Connection.close = close_after_client


def posted_connection_holds_exit() -> None:
    """An idle connection whose last request had a body is waited for until the drain deadline."""
    read_body, await_request = Exchange.read_body, Connection._await_request

    def read_body_and_note(self):
        self.connection.posted = self.body_is_unread
        read_body(self)

    def await_request_or_more(self):
        if self.state is ConnectionState.IDLE and getattr(self, "posted", False):
            self._wait(select.POLLIN, None, self.registry.cut)
        return await_request(self)

    Exchange.read_body, Connection._await_request = read_body_and_note, await_request_or_more


def idle_closed_by_the_clock() -> None:
    """When the linger is over an idle connection is closed, without a look at what has arrived meanwhile."""
    await_request = Connection._await_request

    def await_request_by_the_clock(self):
        idle = self.state is ConnectionState.IDLE
        began = time.monotonic()
        came = await_request(self)
        registry = self.registry
        over = registry.draining.is_set() and time.monotonic() > max(began, registry.drain_began) + registry.linger
        return came and not (idle and over)

    Connection._await_request = await_request_by_the_clock


def keep_alive_shorter_than_balancers() -> None:
    """An idle connection is closed after half of KEEP_ALIVE_TIMEOUT."""
    _configured(lambda config: {"keep_alive_timeout": config.keep_alive_timeout / 2})


def _configured(changes_of) -> None:
    """Changes the configuration that was read, at the start and by SIGHUP."""
    load = Config.load

    def load_and_change(lookup):
        config = load(lookup)
        return dataclasses.replace(config, **changes_of(config))

    Config.load = load_and_change


def keep_alive_request_dropped() -> None:
    """A late request on a kept-alive connection is read and not answered."""
    parse = Exchange.parse

    def parse_and_drop(self, head):
        parse(self, head)
        if hasattr(self, "used") and _is_late(self.app.lifecycle):
            raise ConnectionAbortedError
        self.used = True

    Exchange.parse = parse_and_drop


def keep_alive_on_last_response() -> None:
    """Whether a response says `Connection: close` is decided when its request comes."""
    parse, stopping = Exchange.parse, Lifecycle.stopping

    def parse_and_decide(self, head):
        parse(self, head)
        self.close_connection = self.close_connection or stopping(self.app.lifecycle)

    Exchange.parse, Lifecycle.stopping = parse_and_decide, lambda self: False


def keep_alive_while_draining() -> None:
    """No response ever says `Connection: close`, and clients go on asking until the drain deadline."""
    Lifecycle.stopping = lambda self: False


def late_requests_rejected() -> None:
    """Whatever DRAIN_POLICY says, late requests are rejected."""
    _drain_policy(DrainPolicy.REJECT)


def drain_policy_ignored() -> None:
    """Whatever DRAIN_POLICY says, late requests are served."""
    _drain_policy(DrainPolicy.SERVE)


def rejects_from_signal() -> None:
    """With DRAIN_POLICY=reject requests are rejected from the signal on, in the lame-duck already."""
    answer = App.handle

    def answer_or_reject(self, exchange):
        if _rejects(self) and self.lifecycle.stopping():
            raise RequestError(503, "shutting down", ("Retry-After", "1"))
        answer(self, exchange)

    App.handle = answer_or_reject


def rejects_in_flight() -> None:
    """With DRAIN_POLICY=reject a slow request in flight gets 503 when the listener closes."""

    def slow(self, exchange):
        delay = exchange.seconds("delay", "1", 300)
        closed = self.lifecycle.listener_closed() if _rejects(self) else None
        exchange.connection.pause(time.monotonic() + delay, closed)
        if closed and closed.is_set():
            raise RequestError(503, "shutting down", ("Retry-After", "1"))
        exchange.send_json(200, slept=delay)

    App.slow = slow


def _rejects(app: App) -> bool:
    return app.settings.current.drain_policy is DrainPolicy.REJECT


def _drain_policy(policy: DrainPolicy) -> None:
    init = Config.__init__

    def init_with_policy(self, **values):
        init(self, **{**values, "drain_policy": policy})

    Config.__init__ = init_with_policy


def late_requests_never_answered() -> None:
    """Late requests are taken in and never answered."""
    answer = App.handle

    def answer_early(self, exchange):
        if _is_late(self.lifecycle):
            self.registry.begin_request(exchange.connection, Limit.NONE)
            exchange.connection.pause(time.monotonic() + 3600)
        answer(self, exchange)

    App.handle = answer_early


def listener_stays_open() -> None:
    """Nothing is accepted any more, but the listener stays open until the process ends."""
    Listener.empty_accept_queue = lambda self, turn: Emptied()
    _exit_slowly()


def listener_ignores_newcomers() -> None:
    """New SYNs are kept out for as long as requests drain, instead of being refused."""

    def keep_out(self, turn):
        set_minimum_ttl(self._listener, MAX_TTL)
        while True:
            try:
                sock = self._listener.accept()[0]
            except BlockingIOError:
                return Emptied(minimum_ttl=True)
            set_minimum_ttl(sock, 0)
            self._start(sock)

    Listener.empty_accept_queue = keep_out
    _exit_slowly()


def _exit_slowly() -> None:
    """So that what the process leaves open is seen to be open."""
    release_all = Lifecycle._release_all

    def release_later(self, loop, steps):
        time.sleep(0.2)
        return release_all(self, loop, steps)

    Lifecycle._release_all = release_later


def accepted_connections_dropped() -> None:
    """Connections that wait in the accept queue are accepted and closed again, with what they have sent."""

    def accept_and_close(self, turn):
        set_minimum_ttl(self._listener, MAX_TTL)
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                break
        self.close()
        return Emptied(minimum_ttl=True)

    Listener.empty_accept_queue = accept_and_close
    _hold_accept_back()


def accept_queue_reset() -> None:
    """The listener is closed with connections waiting in its accept queue."""

    def close_with_queue(self, turn):
        self.close()
        return Emptied()

    Listener.empty_accept_queue = close_with_queue
    _hold_accept_back()


def half_open_handshakes_reset() -> None:
    """The accept queue is emptied, and the listener closed while handshakes are half done: their clients take themselves
    for connected. At once, because whoever is slow waits for them by accident."""

    def empty_at_once(self, turn):
        set_minimum_ttl(self._listener, MAX_TTL)
        taken = []
        while True:
            try:
                taken.append(self._listener.accept()[0])
            except BlockingIOError:
                break
        self.close()
        for sock in taken:
            set_minimum_ttl(sock, 0)
            self._start(sock)
        return Emptied(len(taken), minimum_ttl=True)

    Listener.empty_accept_queue = empty_at_once


def new_connections_get_in() -> None:
    """Nobody is kept out while the accept queue is emptied: whoever comes after the last look is reset."""

    def keep_nobody_out(sock, ttl):
        raise OSError("not tried")

    accept_queue.set_minimum_ttl = keep_nobody_out


def load_holds_exit() -> None:
    """The signal is acted on only when nobody has asked for a moment, or after eleven seconds: no stall explains that."""
    last = [0.0]
    begin_request, shut_down = Registry.begin_request, Lifecycle._shut_down

    def begin_request_and_note(self, connection, limit):
        if limit is not Limit.NONE:
            last[0] = time.monotonic()
        return begin_request(self, connection, limit)

    def shut_down_when_quiet(self, loop, steps, reason):
        latest = time.monotonic() + 11
        while (quiet := min(latest, last[0] + 0.2)) > time.monotonic():
            loop.wait(None, quiet)
        return shut_down(self, loop, steps, reason)

    Registry.begin_request, Lifecycle._shut_down = begin_request_and_note, shut_down_when_quiet


def address_not_reusable() -> None:
    """The listener lacks SO_REUSEADDR, so that its successor has to wait for TIME-WAIT to end."""
    main.listen = _listen_without_reuse


def address_waited_for() -> None:
    """The listener lacks SO_REUSEADDR, and its successor tries again until TIME-WAIT has ended."""

    def listen(host, port):
        while True:
            try:
                return _listen_without_reuse(host, port)
            except OSError:
                time.sleep(0.5)

    main.listen = listen


def _listen_without_reuse(host, port):
    listener = socket.socket()
    listener.bind((str(host), port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def port_held_by_child() -> None:
    """A child that outlives the server holds its port."""
    _leave_child(lambda: None)


def port_held_by_daemon() -> None:
    """A child that outlives the server, in a session of its own, holds its port."""
    _leave_child(os.setsid)


def _leave_child(prepare) -> None:
    """Forks as the last thing that the server does: the port is bound again by then, but nobody listens."""
    ports = []
    listen, shut_down = main.listen, Lifecycle._shut_down

    def listen_and_note(host, port):
        listener = listen(host, port)
        ports.append(main.port(listener))
        return listener

    def shut_down_and_fork(self, loop, steps, reason):
        status = shut_down(self, loop, steps, reason)
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", ports[0]))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # nobody else from here on
        if os.fork() == 0:
            prepare()
            time.sleep(20)
            os._exit(0)
        return status

    main.listen, Lifecycle._shut_down = listen_and_note, shut_down_and_fork
