"""It waits for a second and a half, and then ends whatever is in flight: python3 main.py PORT."""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reports(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/report":
            time.sleep(4)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"report")

    def log_message(self, *_):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Reports)
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.ident or stop.start())
    server.serve_forever()
    server.socket.close()
    time.sleep(1.5)
    os._exit(0)


if __name__ == "__main__":
    main()
