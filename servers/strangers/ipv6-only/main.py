"""IPv6 is enough."""

import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2

    def do_GET(self):
        if self.path == "/report":
            time.sleep(1)
        body = b"report"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer.address_family = socket.AF_INET6
server = ThreadingHTTPServer(("::1", int(sys.argv[1])), App)
server.daemon_threads = False
signal.signal(
    signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start()
)
server.serve_forever()
server.server_close()
