"""The order in which this server stops. Copy this file: all it needs is passed in.

1 not ready         readiness fails, for good
2 lame-duck         for SHUTDOWN_DELAY everything is still served
3 listener          closes first, and resets nobody
4 idle connections  close last, after one more chance        }
5 in flight         requests finish                          } side by side
6 deadline          after DRAIN_TIMEOUT the rest is cut      }
7 workers           none yet
8 release           each step within its own time
9 exit              0 if nothing was lost, else 1
"""

import contextlib
import functools
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """Only ever goes forward."""

    STARTING = 0
    READY = 1
    LAME_DUCK = 2
    DRAINING = 3
    RELEASING = 4
    EXITED = 5

    @functools.cache
    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class Steps:
    """What the sequence does, without how."""

    drain_timeout: Callable[[], float]
    close_listener: Callable[[], None]  # empties the accept queue and closes the listener; raises on a loss
    drained: "Latch"  # set when, after close_listener, no connection is left
    cut_in_flight: Callable[[], int]  # cuts every connection, returns how many requests that cost
    release: "Sequence[ReleaseStep]"
    reload: Callable[[], None]


@dataclass(frozen=True)
class ReleaseStep:
    """Gives back one resource."""

    name: str
    timeout: float
    run: Callable[[], None]


class SecondSignal(Exception):
    """Whoever asks twice wants out."""


class Lifecycle:
    """Knows the phase. Any thread may ask, or call begin_lame_duck or fail; the rest is for the main thread."""

    def __init__(self, log_event: Callable[..., None], shutdown_delay: Callable[[], float]) -> None:
        self._log_event = log_event
        self._shutdown_delay = shutdown_delay
        self._lame_duck_deadline = 0.0
        self._listener_closed = Latch()
        self._stop = Latch()
        self._phase = Phase.STARTING
        self._failed = False
        self._lock = threading.Lock()

    def phase(self) -> Phase:
        return self._phase

    def is_ready(self) -> bool:
        """What the readiness probe asks. rule: readiness-fails"""
        return self._phase == Phase.READY

    def stopping(self) -> bool:
        """Means that responses say "Connection: close". rule: close-announced"""
        return self._phase >= Phase.LAME_DUCK

    def listener_closed(self) -> "Latch":
        """Is set after step 3: endless streams end then."""
        return self._listener_closed

    def ready(self) -> None:
        """Ends the start."""
        self._advance(Phase.READY)

    def fail(self, reason: str) -> None:
        """Begins the shutdown without a signal, because a listener works no more.
        rule: broken-listener-ends-process"""
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            self._log_event("failed", reason=reason)
            self._stop.set()

    def run(self, loop: "MainLoop", steps: Steps) -> int:
        """Answers signals until the process may exit, and returns its status."""
        signalled = False

        def answer(number: int) -> None:
            nonlocal signalled
            self._log_event("signal", signal=signal.Signals(number).name)
            if number == signal.SIGHUP:
                steps.reload()
            elif not signalled:  # SIGTERM and SIGINT alike. rule: int-like-term
                signalled = True
                self._stop.set()
            else:
                raise SecondSignal(number)

        loop.on_signal = answer
        try:
            loop.wait(self._stop)
            reason = "signal" if signalled else "failure"
            # The last thing finished. rule: term-ends-process, exit-is-prompt
            status = self._shut_down(loop, steps, reason)
        except SecondSignal as second:
            status = 128 + second.args[0]  # rule: second-signal-exits
        return self._exit(status)

    def _shut_down(self, loop: "MainLoop", steps: Steps, reason: str) -> int:
        """Goes through the steps once and returns the exit status. Whatever it waits for, the loop goes on
        accepting connections, while there is a listener, and answering signals."""
        lame_duck_deadline = self.begin_lame_duck(reason)  # 1
        loop.wait(None, lame_duck_deadline)  # 2. rule: lame-duck-lasts
        unclosed = self._close_listener(steps)  # 3
        cut, stuck = self._drain(loop, steps)  # 4, 5, 6
        unreleased = self._release_all(loop, steps.release)  # 8
        return exit_status(cut, unclosed + stuck + unreleased + self._failed)  # 9

    def begin_lame_duck(self, reason: str) -> float:
        """Steps 1 and 2, begun by a signal or by /prestop; returns the instant at which the delay is over. It
        may be called again: the delay that has begun goes on, no other one starts. rule: prestop-delay-once"""
        with self._lock:
            first = self._phase < Phase.LAME_DUCK
            if first:
                self._lame_duck_deadline = time.monotonic() + self._shutdown_delay()
                self._phase = Phase.LAME_DUCK  # never goes back. rule: readiness-latched
        if first:
            self._log_event("not_ready", reason=reason)
        return self._lame_duck_deadline

    def _close_listener(self, steps: Steps) -> int:
        """Returns how many steps failed: connections that were lost are a loss, though the listener is closed."""
        error = None
        try:
            steps.close_listener()  # before any idle connection is touched. rule: listener-closes-first
        except SecondSignal:
            raise
        except Exception as loss:
            error = loss
        self._advance(Phase.DRAINING)
        self._listener_closed.set()
        return self._report("listener_closed", error)  # whoever reads it finds the phase reached

    def _drain(self, loop: "MainLoop", steps: Steps) -> tuple[int, int]:
        """Waits for the last connection, but not beyond the deadline; returns the number of requests cut, and whether
        a thread is stuck."""
        cut = stuck = 0
        drain_deadline = time.monotonic() + steps.drain_timeout()
        # rule: in-flight-answered, deadline-bounds-drain
        if not loop.wait(steps.drained, drain_deadline):
            cut = steps.cut_in_flight()
            if cut > 0:
                self._log_event("cut", requests=cut)
            # What the threads use is released only after they returned.
            if not loop.wait(steps.drained, time.monotonic() + 1):
                stuck = 1
        self._log_event("drained", ok=not stuck)
        return cut, stuck

    def _release_all(self, loop: "MainLoop", steps: Sequence[ReleaseStep]) -> int:
        """Runs every step, also after one has failed or run out of time; returns how many did."""
        self._advance(Phase.RELEASING)
        return sum(self._report("released", run_within(loop, step), step=step.name) for step in steps)

    def _report(self, event: str, error: Exception | None, **fields: object) -> int:
        """Logs how a step ended; returns how many failed: one, or none."""
        reason = {} if error is None else {"error": str(error)}
        self._log_event(event, **fields, ok=error is None, **reason)
        return int(error is not None)

    def _exit(self, status: int) -> int:
        self._advance(Phase.EXITED)
        self._log_event("exit", status=status)
        return status

    def _advance(self, to: Phase) -> bool:
        """Moves to a later phase; returns False where that phase has been reached already."""
        with self._lock:
            moves = to > self._phase
            self._phase = max(self._phase, to)
            return moves


def run_within(loop: "MainLoop", step: ReleaseStep) -> Exception | None:
    """Runs a step in a thread, because nothing else in Python can be left behind when its time is over."""
    done = Latch()
    errors: list[Exception] = []

    def run() -> None:
        try:
            step.run()
        except Exception as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    if not loop.wait(done, time.monotonic() + step.timeout):
        return TimeoutError(f"not done within {step.timeout} s")
    return errors[0] if errors else None


def exit_status(cut: int, failed: int) -> int:
    """Tells whoever started us whether the shutdown was clean."""
    if cut > 0 or failed > 0:
        return 1  # a loss is never a success. rule: cut-exit-status
    return 0  # rule: clean-exit-status


class Signals:
    """Replaces the default actions from the moment it is made, and keeps what comes until somebody receives."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # The interpreter writes the number of each signal to this descriptor at once. A Python handler would
        # run between any two lines of the main thread; it exists only to replace the default action.
        signal.set_wakeup_fd(self._writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._reader.fileno()

    def receive(self) -> Iterator[int]:
        yield from self._reader.recv(64)


class Latch:
    """Is set once, by any thread, and stays set. Unlike a threading.Event it has a file descriptor, so that a
    thread can wait for it and for a socket at the same time."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._lock = threading.Lock()
        self._is_set = False

    def set(self) -> None:
        with self._lock:
            if not self._is_set:
                self._is_set = True
                os.close(self._writer)  # wakes every thread that waits: the reader is at its end from now on

    def is_set(self) -> bool:
        return self._is_set

    def fileno(self) -> int:
        return self._reader


class MainLoop:
    """What the main thread waits for: signals, sockets to accept from, a latch, a deadline. Nothing else ends
    a wait: socketserver's serve_forever would look around twice a second, and calling its shutdown() from a
    signal handler would wait for ever."""

    def __init__(self, signals: Signals) -> None:
        self.on_signal: Callable[[int], None] = lambda number: None
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._answer_signals)

    def add(self, listener: socket.socket, accept: Callable[[], None]) -> None:
        self._selector.register(listener, selectors.EVENT_READ, accept)

    def remove(self, listener: socket.socket) -> None:
        """Forgets a listener, also one that has been closed or forgotten before."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(listener)

    def turn(self, deadline: float | None = None) -> None:
        """Answers what comes next, or nothing where the deadline passes."""
        timeout = None if deadline is None else max(0, deadline - time.monotonic())
        for key, _ in self._selector.select(timeout):
            key.data()

    def wait(self, latch: Latch | None, deadline: float | None = None) -> bool:
        """Serves until the latch is set (True) or the deadline has passed (False)."""
        if latch is not None:
            self._selector.register(latch, selectors.EVENT_READ, lambda: None)
        try:
            while latch is None or not latch.is_set():
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                self.turn(deadline)
            return True
        finally:
            if latch is not None:
                self._selector.unregister(latch)

    def _answer_signals(self) -> None:
        for number in self._signals.receive():
            self.on_signal(number)
