#!/usr/bin/env python3
"""Keep this machine busy for a while, in all the ways that disturb a test: who computes takes the cores, who forks
takes the scheduler, who syncs takes the disk, who connects takes local ports. Busy loops alone disturb nobody.

It stops by itself, and leaves nothing: when the time is over, on Ctrl-C and SIGTERM, and when it is killed.
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
import socket
import tempfile
import time

KINDS = {"compute": 20, "fork": 20, "sync": 8, "connect": 8}
PR_SET_PDEATHSIG = 1


def compute(until, _port):
    while time.monotonic() < until:
        sum(range(10_000))


def fork(until, _port):
    while time.monotonic() < until:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def sync(until, _port):
    with tempfile.TemporaryFile() as file:
        while time.monotonic() < until:
            file.seek(0)
            file.write(bytes(64 << 10))
            file.flush()
            os.fsync(file.fileno())


def connect(until, port):
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)  # no local port is left, or the listener is slow: both are meant


def accept(until, listener):
    listener.settimeout(0.2)
    while time.monotonic() < until:
        try:
            listener.accept()[0].close()
        except TimeoutError:
            pass


def work(kind, until, argument, parent):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except AttributeError:
        pass  # not Linux: the time is bounded all the same
    if os.getppid() == parent:
        kind(until, argument)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    for kind, count in KINDS.items():
        parser.add_argument(
            f"--{kind}",
            type=int,
            default=count,
            metavar="N",
            help=f"so many (default: {count})",
        )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    context = multiprocessing.get_context("fork")
    until = time.monotonic() + args.seconds
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        kinds = [(kind, getattr(args, kind.__name__)) for kind in (compute, fork, sync, connect)]
        jobs = [(kind, listener.getsockname()[1]) for kind, count in kinds for _ in range(count)]
        jobs.append((accept, listener))
        workers = [
            context.Process(target=work, args=(kind, until, argument, os.getpid())) for kind, argument in jobs
        ]
        try:
            for worker in workers:
                worker.start()
            print(f"{len(workers)} processes for {args.seconds:g} s", flush=True)
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            pass
        finally:
            for worker in workers:
                if worker.pid is not None:
                    worker.kill()
                    worker.join()


if __name__ == "__main__":
    main()
