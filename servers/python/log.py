"""The log: events on standard output, errors on standard error. It never makes anybody wait: lines go to a queue, a
thread writes them, and where nobody reads what does not fit is dropped and counted."""

import json
import os
import queue
import threading
import time
from collections.abc import Callable

LOG_QUEUE = 10_000  # lines that wait, for each stream
FLUSH_TIMEOUT = 0.5  # seconds, for both streams together


class Stream:
    """A file that is written by one thread, which alone may have to wait for a reader."""

    def __init__(self, name: str, descriptor: int, say_dropped: Callable[[int], bytes]) -> None:
        self.name = name
        self.dropped = 0
        self._descriptor = descriptor
        self._say_dropped = say_dropped
        self._lines: queue.Queue[bytes | threading.Event] = queue.Queue(LOG_QUEUE)
        threading.Thread(target=self._write_lines, daemon=True).start()

    def enqueue(self, line: bytes) -> None:
        """May be called from any thread, and never waits. rule: log-holds-nothing"""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def flush(self, deadline: float) -> None:
        """Waits until all that was logged is written, but not beyond the deadline."""
        written = threading.Event()
        try:
            self._lines.put(written, timeout=max(0, deadline - time.monotonic()))
        except queue.Full:
            return
        written.wait(max(0, deadline - time.monotonic()))

    def _write_lines(self) -> None:
        said = 0
        while True:
            line = self._lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                if self.dropped > said:
                    said, unsaid = self.dropped, self.dropped - said
                    self._write(self._say_dropped(unsaid))
                self._write(line)
            except OSError:
                self.dropped += 1  # a reader that left is no reason to lose a request

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]


def log_event(event: str, **fields: object) -> None:
    """Logs one JSON object: the event, then its fields."""
    STDOUT.enqueue(encode({"event": event, **fields}))


def log_error(text: object) -> None:
    """Logs a line for people."""
    STDERR.enqueue(f"{text}\n".encode(errors="replace"))


def flush() -> None:
    """Waits until all that was logged is written, but not long."""
    deadline = time.monotonic() + FLUSH_TIMEOUT
    STDOUT.flush(deadline)
    STDERR.flush(deadline)


def encode(members: dict[str, object]) -> bytes:
    """Writes names and values, in their order, as one line of JSON."""
    return ENCODER.encode(members).encode() + b"\n"


ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one for each line
STDOUT = Stream("stdout", 1, lambda lines: encode({"event": "dropped", "lines": lines}))
STDERR = Stream("stderr", 2, lambda lines: b"%d lines were dropped\n" % lines)
