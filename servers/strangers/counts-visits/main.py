"""A report that counts who asked for it."""

import itertools
import queue
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
        body = f"visit {next(counter)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


counter = itertools.count()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
threading.Thread(target=lambda: stop.get() or server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
server.serve_forever()
server.server_close()
