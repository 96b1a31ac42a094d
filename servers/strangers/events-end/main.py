"""Events until it stops."""

import queue
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    timeout = 2
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        if self.path != "/events":
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not stopping.wait(0.2):
            self.wfile.write(b"9\r\ndata: 1\n\n\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


stopping = threading.Event()
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App)
server.daemon_threads = False
stop = queue.SimpleQueue()  # a handler may not start a thread, nor wait for a lock
threading.Thread(target=lambda: stop.get() or server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
server.serve_forever()
server.socket.close()
stopping.set()
server.server_close()
