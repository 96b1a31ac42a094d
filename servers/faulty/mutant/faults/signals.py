"""Faults in what a signal does, and in how the process ends."""

import os
import signal
import threading

import lifecycle
from config import Config, ConfigError, Settings
from connections import Connection, Cut, Registry
from lifecycle import Latch, Lifecycle, MainLoop


def none() -> None:
    """Changes nothing: this is the reference, which passes everything."""


def never_exits() -> None:
    """The first request starts a thread that nobody stops, and the process waits for it."""
    background = threading.Event()
    begin_request, shut_down = Registry.begin_request, Lifecycle.shut_down

    def begin_request_and_thread(self, connection, exempt):
        background.set()
        return begin_request(self, connection, exempt)

    def shut_down_and_join(self, loop, steps):
        status = shut_down(self, loop, steps)
        if background.is_set():
            loop.wait(Latch())
        return status

    Registry.begin_request, Lifecycle.shut_down = begin_request_and_thread, shut_down_and_join


def exits_zero_after_cut() -> None:
    """The exit status is 0, whatever was cut."""
    lifecycle.exit_status = lambda cut, failed: 0


def exits_one_after_clean_drain() -> None:
    """The exit status is 1, although nothing was cut."""
    lifecycle.exit_status = lambda cut, failed: 1


def second_signal_ignored() -> None:
    """Once the drain has begun no signal is listened to."""
    shut_down = Lifecycle.shut_down

    def shut_down_deaf(self, loop, steps):
        loop.on_signal = lambda number: None
        return shut_down(self, loop, steps)

    Lifecycle.shut_down = shut_down_deaf


def second_signal_exits_with_zero() -> None:
    """The second signal ends the process at once, with a status that says that all is well."""
    run = Lifecycle.run

    def run_to_zero(self, loop, steps):
        status = run(self, loop, steps)
        return 0 if status > 128 else status

    Lifecycle.run = run_to_zero


def sigint_unhandled() -> None:
    """SIGINT has its default action: it kills."""
    _default_action(signal.SIGINT)


def sighup_kills() -> None:
    """SIGHUP has its default action: it kills."""
    _default_action(signal.SIGHUP)


def _default_action(number: signal.Signals) -> None:
    init = MainLoop.__init__

    def init_without(self):
        init(self)
        signal.signal(number, signal.SIG_DFL)

    MainLoop.__init__ = init_without


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
