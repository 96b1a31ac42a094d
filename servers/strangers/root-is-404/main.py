"""A JSON API: it has a route, and its root is not one."""

import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Api(BaseHTTPRequestHandler):
    timeout = 2
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        found = self.path == "/orders"
        if found:
            time.sleep(1)
        body = b"[]" if found else b'{"error": "not found"}'
        self.send_response(200 if found else other)
        self.send_header("Content-Length", str(len(body)))
        if stopping.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


other = int(sys.argv[2]) if len(sys.argv) > 2 else 404
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Api)
server.daemon_threads = False
stopping = threading.Event()


def stop(*_):
    stopping.set()
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
server.serve_forever()
server.server_close()
