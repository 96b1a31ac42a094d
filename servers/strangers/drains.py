"""A server in order, which other cases start in their own ways: python3 drains.py PORT."""

import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reports(BaseHTTPRequestHandler):
    timeout = 1  # for who connects and sends nothing

    def do_GET(self):
        if self.path == "/report":
            time.sleep(1)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"report")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for them
    request_queue_size = 1024


def main():
    server = Server(("127.0.0.1", int(sys.argv[1])), Reports)
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.ident or stop.start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
