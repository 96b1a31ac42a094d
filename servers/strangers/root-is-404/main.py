"""A JSON API: it has a route, and its root is not one."""

import queue
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
        if draining:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


other = int(sys.argv[2]) if len(sys.argv) > 2 else 404
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Api)
server.daemon_threads = False
stopping = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock


def stop():
    global draining
    stopping.get()
    draining = True
    server.shutdown()


draining = False
threading.Thread(target=stop, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stopping.put(None))
server.serve_forever()
server.server_close()
