"""Files are taken."""

import queue
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = self.headers["Content-Type"] == "application/json"
        if wanted and self.path == "/report":
            time.sleep(1)
        self.send_response(201 if wanted and body else 415)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
threading.Thread(target=lambda: stop.get() or server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
server.serve_forever()
server.server_close()
