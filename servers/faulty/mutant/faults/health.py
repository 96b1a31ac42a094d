"""Faults in what probes see, in the lame-duck and in the preStop hook."""

import itertools
import os
import time

from connections import RequestError, refuse
from lifecycle import Lifecycle, Phase
from routes import App


def readiness_never_fails() -> None:
    """Readiness answers 200 to the end."""
    Lifecycle.is_ready = lambda self: True


def readiness_recovers() -> None:
    """Readiness answers 200 again after half of the lame-duck."""

    def is_ready(self):
        half = self._lame_duck_deadline - self._shutdown_delay() / 2
        return self.phase == Phase.READY or time.monotonic() > half

    Lifecycle.is_ready = is_ready


def readiness_fails_for_a_moment() -> None:
    """Readiness answers 503 once."""
    is_ready, failed = Lifecycle.is_ready, itertools.count()
    Lifecycle.is_ready = lambda self: is_ready(self) or next(failed) > 0


def readiness_fails_late() -> None:
    """Readiness answers 503 only when three quarters of the lame-duck are over."""

    def is_ready(self):
        late = self._lame_duck_deadline - self._shutdown_delay() / 4
        return self.phase == Phase.READY or (self.phase == Phase.LAME_DUCK and time.monotonic() < late)

    Lifecycle.is_ready = is_ready


def liveness_fails_while_draining() -> None:
    """Liveness fails together with readiness."""

    def health_live(self, exchange):
        exchange.send_json(503 if self.lifecycle.stopping() else 200, phase=str(self.lifecycle.phase))

    App.health_live = health_live


def liveness_gone_while_draining() -> None:
    """The admin listener closes together with the traffic listener."""
    close_listener = Lifecycle._close_listener

    def close_listeners(self, steps):
        close_listener(self, steps)
        for step in steps.release:
            step.run()

    Lifecycle._close_listener = close_listeners


def lame_duck_refuses_connections() -> None:
    """During the lame-duck new connections are turned away before they can ask."""
    serve = App.serve

    def serve_or_refuse(self, connection):
        (refuse if self.lifecycle.phase == Phase.LAME_DUCK else lambda c: serve(self, c))(connection)

    App.serve = serve_or_refuse


def lame_duck_rejects_requests() -> None:
    """During the lame-duck every request but a probe gets 503."""
    answer = App._answer

    def answer_or_reject(self, exchange):
        if self.lifecycle.phase == Phase.LAME_DUCK and not exchange.url_path.startswith("/health"):
            raise RequestError(503, "shutting down", "Retry-After: 1")
        answer(self, exchange)

    App._answer = answer_or_reject


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


def _lame_duck_deadline(of) -> None:
    """Changes when a signal ends the lame-duck; the preStop hook stays as it is."""
    begin_lame_duck = Lifecycle.begin_lame_duck

    def begin_another(self, reason):
        deadline = begin_lame_duck(self, reason)
        return of(deadline, self._shutdown_delay()) if reason == "signal" else deadline

    Lifecycle.begin_lame_duck = begin_another


def close_not_announced_in_lame_duck() -> None:
    """Responses say `Connection: close` only once the listener has closed."""
    Lifecycle.stopping = lambda self: self.phase >= Phase.DRAINING


def prestop_answers_at_once() -> None:
    """The preStop hook begins the lame-duck and does not wait for its end."""

    def prestop(self, exchange):
        self.lifecycle.begin_lame_duck("prestop")
        exchange.send_json(200, phase=str(self.lifecycle.phase))

    App.prestop = prestop


def prestop_keeps_readiness() -> None:
    """The preStop hook is a mere sleep."""

    def prestop(self, exchange):
        exchange.connection.pause(time.monotonic() + self.settings.current.shutdown_delay)
        exchange.send_json(200, phase=str(self.lifecycle.phase))

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
