"""A port that several instances share."""

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer


class Shared(HTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()


Shared(("127.0.0.1", 18641), App).serve_forever()
