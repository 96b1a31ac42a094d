"""Caches have to be filled first."""

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
        warm = time.monotonic() > began + 3
        self.send_response(200 if warm else 503)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"report")

    def log_message(self, *_):
        pass


began = time.monotonic()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
signal.signal(
    signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start()
)
server.serve_forever()
server.server_close()
