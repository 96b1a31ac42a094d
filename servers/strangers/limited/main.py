"""A limiter of 40 requests for each quarter of a second."""

import queue
import signal
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2

    def do_GET(self):
        if self.path == "/report":
            time.sleep(1)
        window = int(time.monotonic() * 4)
        counts[window] += 1
        self.send_response(429 if counts[window] > 40 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


counts = Counter()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
threading.Thread(target=lambda: stop.get() or server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
server.serve_forever()
server.server_close()
