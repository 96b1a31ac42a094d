"""A server that listens first and installs its handler a moment later."""

import signal
import sys
import threading
import time

sys.path.insert(0, "..")
import drains


def main():
    server = drains.Server(("127.0.0.1", int(sys.argv[1])), drains.Reports)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    time.sleep(0.3)
    signals = []
    signal.signal(signal.SIGTERM, lambda *_: signals.append(None))
    # Looks again and again: a signal that comes just before a wait does not end that one.
    while not signals:
        time.sleep(0.05)
    server.shutdown()
    serving.join()
    server.server_close()


main()
