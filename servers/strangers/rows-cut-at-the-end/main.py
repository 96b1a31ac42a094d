"""Rows until the connection ends."""

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2

    def do_GET(self):
        if self.path != "/rows":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/csv")
        self.end_headers()
        for row in range(10):
            if stopping.wait(0.15):
                break
            self.wfile.write(b"row %d\n" % row)

    def log_message(self, *_):
        pass


stopping = threading.Event()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False


def stop(*_):
    stopping.set()
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
server.serve_forever()
server.server_close()
