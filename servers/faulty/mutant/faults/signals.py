"""Faults in what a signal does, and in how the process ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import lifecycle
import log
from config import Config, ConfigError, Settings
from connections import Connection, Cut, Registry
from lifecycle import Latch, Lifecycle, Phase, Signals


def none() -> None:
    """Changes nothing: this is the reference, which passes everything."""


def signal_not_passed_on() -> None:
    """A parent starts the server and passes no signal on: it ends, and the server serves on as an orphan."""
    _start_server().wait()
    os._exit(0)


def group_signal_counts_twice() -> None:
    """A parent passes each signal on to the server, which has it already where the whole group was signalled."""
    server = _start_server()

    def pass_on(number, _):
        time.sleep(0.1)  # two that come at once are one
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    status = server.wait()
    os._exit(status if status >= 0 else 128 - status)


def _start_server() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-B", sys.argv[0], "none"])


def never_exits() -> None:
    """The first request starts a thread that nobody stops, and the process waits for it."""
    background = threading.Event()
    begin_request, shut_down = Registry.begin_request, Lifecycle._shut_down

    def begin_request_and_thread(self, connection, limit):
        background.set()
        return begin_request(self, connection, limit)

    def shut_down_and_join(self, loop, steps, reason):
        status = shut_down(self, loop, steps, reason)
        if background.is_set():
            loop.wait(Latch())
        return status

    Registry.begin_request, Lifecycle._shut_down = begin_request_and_thread, shut_down_and_join


def exits_zero_after_cut() -> None:
    """The exit status is 0, whatever was cut."""
    lifecycle.exit_status = lambda cut, failed: 0


def exits_one_after_clean_drain() -> None:
    """The exit status is 1, although nothing was cut."""
    lifecycle.exit_status = lambda cut, failed: 1


def second_signal_ignored() -> None:
    """Once the drain has begun no signal is listened to."""
    shut_down = Lifecycle._shut_down

    def shut_down_deaf(self, loop, steps, reason):
        loop.on_signal = lambda number: None
        return shut_down(self, loop, steps, reason)

    Lifecycle._shut_down = shut_down_deaf


def second_signal_ignored_in_lame_duck() -> None:
    """During the lame-duck the second signal is not listened to."""
    shut_down = Lifecycle._shut_down

    def shut_down_deaf_at_first(self, loop, steps, reason):
        answer = loop.on_signal

        def answer_later(number):
            if number == signal.SIGHUP or self.phase() >= Phase.DRAINING:
                answer(number)

        loop.on_signal = answer_later
        return shut_down(self, loop, steps, reason)

    Lifecycle._shut_down = shut_down_deaf_at_first


def second_signal_exits_with_zero() -> None:
    """The second signal ends the process at once, with a status that says that all is well."""
    _second_signal_status(0)


def second_signal_exits_like_first() -> None:
    """The second signal ends the process with 143, whichever signal it is."""
    _second_signal_status(128 + signal.SIGTERM)


def startup_signal_dropped_late() -> None:
    """A start takes long, and a signal that comes in its last second is thrown away."""
    made = []
    init, load = Signals.__init__, Config.load

    def init_and_note(self):
        init(self)
        made.append(self)

    def load_slowly(lookup):
        if made:
            time.sleep(0.5)
            if _received(made[0]):
                os._exit(0)
            time.sleep(1)
            _received(made.pop())
        return load(lookup)

    Signals.__init__, Config.load = init_and_note, load_slowly


def _received(signals: Signals) -> list[int]:
    try:
        return list(signals.receive())
    except BlockingIOError:
        return []


def _second_signal_status(forced: int) -> None:
    run = Lifecycle.run

    def run_to(self, loop, steps):
        status = run(self, loop, steps)
        return forced if status > 128 else status

    Lifecycle.run = run_to


def drain_noticed_late() -> None:
    """That all requests are done is noticed half a second late, as by whoever looks for it now and then."""
    drain = Lifecycle._drain

    def drain_and_notice(self, loop, steps):
        began = time.monotonic()
        drained = drain(self, loop, steps)
        if time.monotonic() - began > 0.1:  # else there was nothing to be done
            time.sleep(0.5)
        return drained

    Lifecycle._drain = drain_and_notice


def sigint_unhandled() -> None:
    """SIGINT has its default action: it kills."""
    _default_action(signal.SIGINT)


def sighup_kills() -> None:
    """SIGHUP has its default action: it kills."""
    _default_action(signal.SIGHUP)


def sighup_kills_while_draining() -> None:
    """SIGHUP has its default action again once the listener closes: it kills."""
    close_listener = Lifecycle._close_listener

    def close_listener_undefended(self, steps):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        return close_listener(self, steps)

    Lifecycle._close_listener = close_listener_undefended


def _default_action(number: signal.Signals) -> None:
    init = Signals.__init__

    def init_without(self):
        init(self)
        signal.signal(number, signal.SIG_DFL)

    Signals.__init__ = init_without


def sighup_drops_requests() -> None:
    """SIGHUP abandons the requests in flight, like a worker that is replaced without waiting for it."""
    replaced = Latch()
    reload, pause = Settings.reload, Connection.pause

    def reload_at_once(self):
        replaced.set()
        return reload(self)

    def pause_until_replaced(self, deadline, latch=None):
        pause(self, deadline, latch or replaced)
        if latch is None and replaced.is_set():
            raise Cut

    Settings.reload, Connection.pause = reload_at_once, pause_until_replaced


def sighup_ignores_file() -> None:
    """SIGHUP is survived, and the file is not read."""
    Settings.reload = lambda self: []


def sighup_takes_bad_file() -> None:
    """A bad file is taken for an empty one, and what was in force is lost."""
    reload = Settings.reload

    def reload_anything(self):
        try:
            return reload(self)
        except ConfigError:
            self.current = Config.load({**os.environ, "CONFIG_FILE": ""}.get)
            raise

    Settings.reload = reload_anything


def log_waits_for_reader() -> None:
    """A line is written at once, by whoever logs it, and where nobody reads that waits."""

    def write_through(self, line):
        with LOCKS[self.name]:
            self._write(line)

    log.Stream.enqueue = write_through


LOCKS = {"stdout": threading.Lock(), "stderr": threading.Lock()}


def exit_waits_for_reader() -> None:
    """The end of the process waits until the last line is written."""
    flush = log.Stream.flush
    log.Stream.flush = lambda self, deadline: flush(self, deadline + 24 * 3600)


def broken_listener_ignored() -> None:
    """A listener that works no more is logged, and that is all."""
    Lifecycle.fail = lambda self, reason: log.log_error(reason)


def broken_listener_exits_with_zero() -> None:
    """A listener that works no more begins a shutdown like any other."""
    fail = Lifecycle.fail

    def fail_quietly(self, reason):
        fail(self, reason)
        self._failed = False

    def close_quietly(self, steps):
        close_listener(self, steps)
        return 0

    close_listener = Lifecycle._close_listener
    Lifecycle.fail, Lifecycle._close_listener = fail_quietly, close_quietly
