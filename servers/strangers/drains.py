"""A server in order, which other cases start in their own ways: python3 drains.py PORT."""

import queue
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

    def server_activate(self):
        super().server_activate()
        self.socket.setblocking(False)  # whoever was there may have left again


def main():
    server = Server(("127.0.0.1", int(sys.argv[1])), Reports)
    stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
    threading.Thread(
        target=lambda: stop.get() or server.shutdown(), daemon=True
    ).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
