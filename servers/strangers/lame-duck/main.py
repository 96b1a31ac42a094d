"""A server as Kubernetes asks for: after SIGTERM readiness fails, and it goes on serving for two seconds."""

import signal
import sys
import threading
import time

sys.path.insert(0, "..")
import drains

stopping = threading.Event()


class Reports(drains.Reports):
    protocol_version = "HTTP/1.1"
    timeout = 2

    def do_GET(self):
        self.close_connection = stopping.is_set()
        if self.path == "/ready" and stopping.is_set():
            return self.send_error(500)
        return super().do_GET()

    def send_response(self, *response):
        super().send_response(*response)
        if stopping.is_set():
            self.send_header("Connection", "close")


def stop(server):
    time.sleep(2)
    server.shutdown()


def main():
    server = drains.Server(("127.0.0.1", int(sys.argv[1])), Reports)
    stops = threading.Thread(target=stop, args=(server,))

    def on_signal(*_):
        if not stopping.is_set():
            stopping.set()
            stops.start()

    signal.signal(signal.SIGTERM, on_signal)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


main()
