"""Faults in what probes see, in the lame-duck and in the preStop hook."""

import itertools
import os
import select
import time
from types import SimpleNamespace

from connections import Connection, ConnectionState
from lifecycle import Latch, Lifecycle, MainLoop, Phase
from routes import App, Exchange, RequestError


def readiness_never_fails() -> None:
    """Readiness answers 200 to the end."""
    Lifecycle.is_ready = lambda self: True


def readiness_recovers() -> None:
    """Readiness answers 200 again after half of the lame-duck."""

    def is_ready(self):
        half = self._lame_duck_deadline - self._shutdown_delay() / 2
        return self.phase() == Phase.READY or time.monotonic() > half

    Lifecycle.is_ready = is_ready


def readiness_fails_for_a_moment() -> None:
    """Readiness answers 503 once."""
    is_ready, failed = Lifecycle.is_ready, itertools.count()
    Lifecycle.is_ready = lambda self: is_ready(self) or next(failed) > 0


def readiness_fails_late() -> None:
    """Readiness answers 503 only when three quarters of the lame-duck are over."""

    def is_ready(self):
        late = self._lame_duck_deadline - self._shutdown_delay() / 4
        return self.phase() == Phase.READY or (self.phase() == Phase.LAME_DUCK and time.monotonic() < late)

    Lifecycle.is_ready = is_ready


def readiness_recovers_on_admin() -> None:
    """Readiness answers 200 again on the admin port once the listener has closed."""
    ready = App.ready

    def ready_again(self, exchange):
        on_admin = exchange.connection.registry is not self.registry
        if on_admin and self.lifecycle.phase() >= Phase.DRAINING:
            self.live(exchange)
        else:
            ready(self, exchange)

    App.ready = ready_again


def liveness_fails_while_draining() -> None:
    """Liveness fails together with readiness."""

    def live(self, exchange):
        exchange.send_json(503 if self.lifecycle.stopping() else 200, phase=str(self.lifecycle.phase()))

    App.live = live


def liveness_gone_while_draining() -> None:
    """The admin listener closes together with the traffic listener."""
    close_listener = Lifecycle._close_listener

    def close_listeners(self, steps):
        failed = close_listener(self, steps)
        for step in steps.release:
            step.run()
        return failed

    Lifecycle._close_listener = close_listeners


def liveness_hangs_while_draining() -> None:
    """The admin listener stays open and accepts nothing any more once the traffic listener closes."""
    listeners = []
    add, remove = MainLoop.add, MainLoop.remove

    def add_and_note(self, listener, accept):
        listeners.append(listener)
        add(self, listener, accept)

    def remove_all(self, _):
        for listener in listeners:
            remove(self, listener)

    MainLoop.add, MainLoop.remove = add_and_note, remove_all


def lame_duck_refuses_connections() -> None:
    """During the lame-duck new connections are turned away before they can ask."""
    serve = App.serve

    def serve_or_refuse(self, connection):
        (Connection.refuse if self.lifecycle.phase() == Phase.LAME_DUCK else lambda c: serve(self, c))(connection)

    App.serve = serve_or_refuse


def lame_duck_rejects_requests() -> None:
    """During the lame-duck every request but a probe gets 503."""
    answer = App.handle

    def answer_or_reject(self, exchange):
        if self.lifecycle.phase() == Phase.LAME_DUCK and not exchange.url_path.startswith("/health"):
            raise RequestError(503, "shutting down", ("Retry-After", "1"))
        answer(self, exchange)

    App.handle = answer_or_reject


def lame_duck_blocks() -> None:
    """The lame-duck is a sleep in the main thread: nobody is accepted in it, and requests that come wait."""

    def sleep(deadline, delay):
        time.sleep(max(0, deadline - time.monotonic()))
        return deadline

    _lame_duck_deadline(sleep)


def lame_duck_closes_idle() -> None:
    """Idle connections linger from the signal on, and are closed while the listener is still open."""
    signalled = _latch_on_signal(lambda deadline: True)
    await_request = Connection._await_request

    def await_request_or_leave(self):
        settings = self.registry.settings.current
        if self.state is ConnectionState.IDLE:
            self._wait(select.POLLIN, time.monotonic() + settings.keep_alive_timeout, signalled)
            linger_deadline = time.monotonic() + settings.idle_linger
            if signalled.is_set() and not self._wait(select.POLLIN, linger_deadline, self.registry.cut):
                return False
        return await_request(self)

    Connection._await_request = await_request_or_leave


def endless_stream_ended_in_lame_duck() -> None:
    """An endless stream is ended as soon as the signal arrives, properly."""
    signalled = _latch_on_signal(lambda deadline: time.monotonic() < deadline)
    init = Lifecycle.__init__

    def init_with_latch(self, *args: object):
        init(self, *args)
        self._listener_closed = signalled

    Lifecycle.__init__ = init_with_latch


def _latch_on_signal(wanted) -> Latch:
    """Is set when a signal arrives, where the end of the delay is as wanted."""
    signalled = Latch()
    begin_lame_duck = Lifecycle.begin_lame_duck

    def begin_and_set(self, reason):
        deadline = begin_lame_duck(self, reason)
        if reason == "signal" and wanted(deadline):
            signalled.set()
        return deadline

    Lifecycle.begin_lame_duck = begin_and_set
    return signalled


def lame_duck_skipped() -> None:
    """A signal closes the listener at once, whatever the delay, and no probe is told."""
    begin_lame_duck = Lifecycle.begin_lame_duck

    def begin_after_prestop_only(self, reason):
        if reason != "signal":
            return begin_lame_duck(self, reason)
        Lifecycle.is_ready = lambda self: True
        return time.monotonic()

    Lifecycle.begin_lame_duck = begin_after_prestop_only


def lame_duck_too_short() -> None:
    """The listener closes when four fifths of the lame-duck are over."""
    _lame_duck_deadline(lambda deadline, delay: deadline - delay / 5)


def lame_duck_too_long() -> None:
    """The listener closes six seconds after the end of the lame-duck."""
    _lame_duck_deadline(lambda deadline, delay: deadline + 6 if delay > 0 else deadline)


def signal_starts_another_delay() -> None:
    """A signal starts the delay again, also where the preStop hook has waited already."""
    _lame_duck_deadline(lambda deadline, delay: time.monotonic() + delay)


def prestop_cut_short_by_signal() -> None:
    """A signal ends the delay that the preStop hook has begun, and the listener closes at once."""
    begin_lame_duck, release_all = Lifecycle.begin_lame_duck, Lifecycle._release_all

    def begin_or_end(self, reason):
        begun = self.phase() >= Phase.LAME_DUCK
        deadline = begin_lame_duck(self, reason)
        return time.monotonic() if begun and reason == "signal" else deadline

    def release_after_hook(self, loop, steps):
        loop.wait(None, self._lame_duck_deadline)  # the hook itself is answered when it should be
        return release_all(self, loop, steps)

    Lifecycle.begin_lame_duck, Lifecycle._release_all = begin_or_end, release_after_hook


def _lame_duck_deadline(of) -> None:
    """Changes when a signal ends the lame-duck; the preStop hook stays as it is."""
    begin_lame_duck = Lifecycle.begin_lame_duck

    def begin_another(self, reason):
        deadline = begin_lame_duck(self, reason)
        return of(deadline, self._shutdown_delay()) if reason == "signal" else deadline

    Lifecycle.begin_lame_duck = begin_another


def close_not_announced_in_lame_duck() -> None:
    """Responses say `Connection: close` only once the listener has closed."""
    Lifecycle.stopping = lambda self: self.phase() >= Phase.DRAINING


def close_not_announced_on_streams() -> None:
    """In the lame-duck the responses of streams do not say `Connection: close`."""
    _offer_keep_alive(("/stream", "/events"), until=Phase.DRAINING)


def close_not_announced_to_probes() -> None:
    """The answers to probes never say `Connection: close`."""
    _offer_keep_alive(("/health",), until=Phase.EXITED)


def _offer_keep_alive(paths: tuple[str, ...], until: Phase) -> None:
    """Answers some paths as if nothing had begun."""
    send_head, unaware = Exchange.send_head, SimpleNamespace(stopping=lambda: False)

    def send_head_unaware(self, status, *fields, body=None):
        app = self.app
        if getattr(self, "url_path", "").startswith(paths) and app.lifecycle.phase() < until:
            self.app = SimpleNamespace(instance=app.instance, lifecycle=unaware)
        send_head(self, status, *fields, body=body)
        self.app = app

    Exchange.send_head = send_head_unaware


def prestop_answers_at_once() -> None:
    """The preStop hook begins the lame-duck and does not wait for its end."""

    def prestop(self, exchange):
        self.lifecycle.begin_lame_duck("prestop")
        exchange.send_json(200, phase=str(self.lifecycle.phase()))

    App.prestop = prestop


def prestop_keeps_readiness() -> None:
    """The preStop hook is a mere sleep."""

    def prestop(self, exchange):
        exchange.connection.pause(time.monotonic() + self.settings.current.shutdown_delay)
        exchange.send_json(200, phase=str(self.lifecycle.phase()))

    App.prestop = prestop


def prestop_ends_process() -> None:
    """When the delay is over the preStop hook ends the process, instead of answering."""

    def prestop(self, exchange):
        exchange.connection.pause(self.lifecycle.begin_lame_duck("prestop"))
        os._exit(0)

    App.prestop = prestop


def prestop_fails_when_called_again() -> None:
    """The preStop hook answers 409 where it has been called before."""
    prestop = App.prestop

    def prestop_once(self, exchange):
        if self.lifecycle.stopping():
            raise RequestError(409, "called before")
        prestop(self, exchange)

    App.prestop = prestop_once
