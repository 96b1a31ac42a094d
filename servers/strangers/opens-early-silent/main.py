"""A listener that is open before there is an application."""

import queue
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


early = socket.create_server(("127.0.0.1", int(sys.argv[1])))
early.settimeout(0.1)
held, ready = [], time.monotonic() + 2
while time.monotonic() < ready:
    try:
        held.append(early.accept()[0])
    except TimeoutError:
        pass
early.settimeout(None)
server = ThreadingHTTPServer(("", 0), App, bind_and_activate=False)
server.socket = early
server.server_address = early.getsockname()
server.server_name, server.server_port = server.server_address
server.daemon_threads = False
stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
threading.Thread(target=lambda: stop.get() or server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
server.serve_forever()
server.server_close()
