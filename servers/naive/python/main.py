"""The same routes as the reference server, and no shutdown handling: what people write first."""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

INSTANCE = os.urandom(8).hex()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or head and body, sent one after the other, take 40 ms

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path:
            case "/":
                self.send_json(200, {"server": "python"})
            case "/health" | "/health/live" | "/health/ready":
                self.send_json(200, {"phase": "ready"})
            case "/slow":
                delay = float(query.get("delay", 1))
                time.sleep(delay)
                self.send_json(200, {"slept": delay})
            case "/bytes":
                self.send_body(200, "application/octet-stream", bytes(int(query.get("size", 1024))))
            case "/stream":
                self.begin_chunks("text/plain")
                for number in range(int(query.get("chunks", 10))):
                    if number > 0:
                        time.sleep(float(query.get("interval", 0.1)))
                    self.send_chunk(f"chunk {number}\n")
                self.send_chunk("")
            case "/events":
                self.begin_chunks("text/event-stream")
                number = 0
                while True:
                    self.send_chunk(f"data: {number}\n\n")
                    time.sleep(1)
                    number += 1
            case _:
                self.send_json(404, {"error": "no such path"})

    def do_POST(self) -> None:
        body = self.read_body()
        if urlsplit(self.path).path == "/echo":
            self.send_body(200, self.headers.get("Content-Type", "application/octet-stream"), body)
        else:
            self.send_json(404, {"error": "no such path"})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def send_json(self, status: int, members: dict) -> None:
        self.send_body(status, "application/json", json.dumps(members).encode() + b"\n")

    def send_body(self, status: int, content_type: str, body: bytes) -> None:
        self.begin(status, content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunks(self, content_type: str) -> None:
        self.begin(200, content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def begin(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("X-Instance-Id", INSTANCE)
        self.send_header("Content-Type", content_type)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    address = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080")))
    server = ThreadingHTTPServer(address, Handler)
    listening = {"event": "listening", "port": server.server_port, "pid": os.getpid(), "instance": INSTANCE}
    print(json.dumps(listening), flush=True)
    server.serve_forever()
