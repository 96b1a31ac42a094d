"""A server that ends at once when it is signalled a second time."""

import os
import signal
import sys
import threading

sys.path.insert(0, "..")
import drains

server = drains.Server(("127.0.0.1", int(sys.argv[1])), drains.Reports)
signals = []


def on_signal(number, _):
    signals.append(number)
    if len(signals) > 1:
        os._exit(128 + number)
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, on_signal)
server.serve_forever()
server.server_close()
