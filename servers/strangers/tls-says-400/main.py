"""What nginx says to plain HTTP on a port of `listen 443 ssl`."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Nginx(BaseHTTPRequestHandler):
    def do_GET(self):
        page = b"<h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port"
        self.send_response(400)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


HTTPServer(("127.0.0.1", int(sys.argv[1])), Nginx).serve_forever()
