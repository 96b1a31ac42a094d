"""The `listening` line of ../CONTRACT.md, for servers that report their port in another way, or not at all."""

import json
import os

# Made by whoever is first, the master, and inherited by its workers.
INSTANCE = os.environ.setdefault("INSTANCE", os.urandom(8).hex())


def announce(port: int, pid: int | None = None) -> None:
    line = {"event": "listening", "port": port, "pid": pid or os.getpid(), "instance": INSTANCE}
    print(json.dumps(line), flush=True)
