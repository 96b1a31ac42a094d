"""granian with one worker process. On SIGTERM and SIGINT the master terminates its workers, each of which finishes
what it has; those that do not are killed after `workers_kill_timeout`, which is off by default.

https://github.com/emmett-framework/granian#options
"""

import os
import socket

from granian import Granian
from granian.constants import Interfaces


def main() -> None:
    host = os.environ.get("HOST") or "127.0.0.1"
    # Each worker opens a listener of its own with SO_REUSEPORT, so port 0 would be another port for each. A
    # socket that is bound but does not listen keeps a free one for them.
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, int(os.environ.get("PORT") or "8080")))
    os.environ["LISTEN_PORT"] = str(reserved.getsockname()[1])
    Granian(
        "app:app",
        address=host,
        port=reserved.getsockname()[1],
        interface=Interfaces.ASGI,
        workers_kill_timeout=max(1, int(float(os.environ.get("DRAIN_TIMEOUT", "30")))),
        log_enabled=False,
    ).serve()


if __name__ == "__main__":
    main()
