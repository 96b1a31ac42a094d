"""Workers that are recycled with what they do."""

import itertools
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2

    def do_GET(self):
        if self.path == "/report":
            time.sleep(1)
        elif next(counter) % 50 == 49:
            return
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


counter = itertools.count()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
signal.signal(
    signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start()
)
server.serve_forever()
server.server_close()
