"""A leader that shares its listener with a worker, and does not wait for it."""

import os
import signal
import sys

sys.path.insert(0, "..")
import drains

server = drains.Server(("127.0.0.1", int(sys.argv[1])), drains.Reports)
if os.fork() == 0:
    server.serve_forever()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
