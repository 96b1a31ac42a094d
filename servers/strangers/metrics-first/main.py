"""Metrics are there before the application is."""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/report":
            time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


metrics = ThreadingHTTPServer(("127.0.0.1", 18611), App)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
time.sleep(2)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
