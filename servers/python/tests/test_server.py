"""A real child process, real sockets and real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

FOLDER = Path(__file__).parent.parent
COMMAND = [sys.executable, "-B", "main.py"]


class Server:
    def __init__(self, test: unittest.TestCase, **variables: str) -> None:
        environment = {**os.environ, "PORT": "0", "ADMIN_PORT": "0", **variables}
        self.process = subprocess.Popen(
            COMMAND, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        test.addCleanup(self.process.communicate)
        test.addCleanup(self.process.kill)
        self.test = test
        self.listening = self.read_event()

    def read_event(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def read_until(self, name: str) -> dict:
        while (event := self.read_event())["event"] != name:
            pass
        return event

    def connect(self, which: str = "port") -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.listening[which], timeout=10)
        self.test.addCleanup(connection.close)
        return connection

    def get(self, path: str, which: str = "port") -> HTTPResponse:
        connection = self.connect(which)
        connection.request("GET", path)
        return connection.getresponse()

    def send_raw(self, data: bytes) -> bytes:
        """Sends the bytes on a connection of their own and returns all that comes back until FIN."""
        with socket.create_connection(("127.0.0.1", self.listening["port"]), timeout=10) as sock:
            sock.sendall(data)
            with sock.makefile("rb") as file:
                return file.read()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


class RequestTest(unittest.TestCase):
    def test_errors(self) -> None:
        server = Server(self)
        for method, path, status in [
            ("GET", "/nope", 404),
            ("GET", "/echo", 405),
            ("GET", "/slow?delay=-1", 422),
            ("GET", "/slow?delay=301", 422),
            ("GET", "/bytes?size=1.5", 422),
            ("GET", "/stream?chunks=0", 422),
        ]:
            with self.subTest(path=path):
                connection = server.connect()
                connection.request(method, path)
                response = connection.getresponse()
                self.assertEqual(response.status, status)
                self.assertEqual(response.headers["X-Instance-Id"], server.listening["instance"])
                self.assertIn("error", json.loads(response.read()))
                if status == 405:
                    self.assertEqual(response.headers["Allow"], "POST")

    def test_malformed_heads(self) -> None:
        server = Server(self)
        for head in [
            b"GET /\r\n",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n",
            b"GET / HTTP/1.1\r\nHost: x y\r\n",
            b"GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        ]:
            with self.subTest(head=head):
                self.assertRegex(server.send_raw(head + b"\r\n"), rb"^HTTP/1.1 400 ")

    def test_head_too_large(self) -> None:
        answer = Server(self).send_raw(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000)
        self.assertRegex(answer, rb"^HTTP/1.1 431 ")

    def test_body_too_large(self) -> None:
        server = Server(self, MAX_BODY_BYTES="4")
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        for rest, status in [
            (b"Content-Length: 4\r\n\r\nabcd", b"200"),
            (b"Content-Length: 5\r\n\r\n", b"413"),
            (b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"413"),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", b"200"),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n1\r\ne", b"413"),
            (b"Transfer-Encoding: chunked\r\n\r\n+1\r\n", b"400"),
        ]:
            with self.subTest(rest=rest):
                self.assertRegex(server.send_raw(head + rest), b"^HTTP/1.1 " + status)

    def test_slow_heads_and_bodies(self) -> None:
        server = Server(self, HEADER_TIMEOUT="0.2", BODY_TIMEOUT="0.2")
        self.assertEqual(server.send_raw(b""), b"")
        self.assertRegex(server.send_raw(b"GET / HTTP"), rb"^HTTP/1.1 408 ")
        stalled = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"
        self.assertRegex(server.send_raw(stalled), rb"^HTTP/1.1 408 ")

    def test_expect_continue(self) -> None:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        answer = Server(self).send_raw(head + b"Expect: 100-continue\r\n\r\nhi")
        self.assertRegex(answer, rb"(?s)^HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n.*\r\n\r\nhi$")

    def test_pipelined(self) -> None:
        one = b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n"
        answer = Server(self).send_raw(one % b"" + one % b"Connection: close\r\n" + one % b"")
        self.assertEqual(answer.count(b"HTTP/1.1 200 OK"), 2)

    def test_too_many_in_flight(self) -> None:
        server = Server(self, MAX_IN_FLIGHT="1")
        unread = server.get("/bytes?size=100000000")
        response = server.get("/")
        self.assertEqual((response.status, response.headers["Retry-After"]), (429, "1"))
        self.assertEqual(server.get("/health").status, 200)
        unread.close()

    def test_streams_have_a_limit_of_their_own(self) -> None:
        server = Server(self, MAX_IN_FLIGHT="1", MAX_STREAMS="1")
        endless = server.get("/events")
        self.assertEqual(server.get("/").status, 200)
        response = server.get("/events")
        self.assertEqual((response.status, response.headers["Retry-After"]), (429, "1"))
        endless.close()

    def test_a_client_that_reads_nothing_is_reset(self) -> None:
        server = Server(self, WRITE_TIMEOUT="0.3")
        deaf = server.get("/bytes?size=100000000")
        time.sleep(1)
        with self.assertRaises(OSError):
            deaf.read()

    def test_too_many_connections(self) -> None:
        server = Server(self, MAX_CONNECTIONS="1")
        first = server.connect()
        first.request("GET", "/")
        first.getresponse().read()
        self.assertRegex(server.send_raw(b""), rb"^HTTP/1.1 503 ")


class ShutdownTest(unittest.TestCase):
    def test_in_flight_is_answered(self) -> None:
        server = Server(self)
        connection = server.connect()
        connection.request("GET", "/slow?delay=0.5", headers={"X-Request-Id": "a-1"})
        wait_for_in_flight(server, 1)
        server.process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        self.assertEqual((response.status, response.headers["Connection"]), (200, "close"))
        self.assertEqual(server.read_until("executed")["request_id"], "a-1")
        response.read()
        connection.close()
        self.assertEqual(server.process.wait(timeout=20), 0)

    def test_deadline_cuts(self) -> None:
        server = Server(self, DRAIN_TIMEOUT="0.2", IDLE_LINGER="0")
        connection = server.connect()
        connection.request("GET", "/slow?delay=60")
        wait_for_in_flight(server, 1)
        server.process.send_signal(signal.SIGTERM)
        self.assertRaises(ConnectionResetError, connection.getresponse)
        self.assertEqual(server.read_until("cut")["requests"], 1)
        self.assertEqual(server.process.wait(timeout=20), 1)

    def test_endless_stream_ends(self) -> None:
        server = Server(self)
        response = server.get("/events")
        self.assertEqual(response.readline(), b"data: 0\n")
        server.process.send_signal(signal.SIGTERM)
        self.assertNotIn(b"error", response.read())  # http.client raises where the final chunk is missing
        self.assertEqual(server.process.wait(timeout=20), 0)

    def test_second_signal(self) -> None:
        server = Server(self, SHUTDOWN_DELAY="60")
        server.process.send_signal(signal.SIGTERM)
        server.read_until("not_ready")
        self.assertEqual(server.get("/health/ready").status, 503)
        self.assertEqual(server.get("/health/live", "admin_port").status, 200)
        self.assertEqual(server.stop(signal.SIGINT), 130)

    def test_prestop(self) -> None:
        server = Server(self)
        self.assertEqual(server.get("/prestop", "admin_port").status, 200)
        self.assertEqual(server.read_event(), {"event": "not_ready", "reason": "prestop"})
        self.assertEqual(server.get("/health").status, 503)
        self.assertEqual(server.get("/").headers["Connection"], "close")
        self.assertEqual(server.stop(), 0)

    def test_reject(self) -> None:
        server = Server(self, DRAIN_POLICY="reject", IDLE_LINGER="20")
        connection = server.connect()
        connection.request("GET", "/")
        connection.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        server.read_until("listener_closed")
        wait_for(lambda: server.get("/health", "admin_port").read() == b'{"phase":"draining"}\n')
        connection.request("GET", "/")
        response = connection.getresponse()
        self.assertEqual((response.status, response.headers["Retry-After"]), (503, "1"))
        response.read()
        self.assertEqual(server.process.wait(timeout=20), 0)


class ReloadTest(unittest.TestCase):
    def test_reload(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            server = Server(self, CONFIG_FILE=file.name)
            for text, event in [
                ("MAX_IN_FLIGHT=1\n", {"event": "reloaded", "changed": ["MAX_IN_FLIGHT"]}),
                ("MAX_IN_FLIGHT=1\nPORT=1\n", {"event": "reloaded", "changed": []}),
            ]:
                file.seek(0)
                file.write(text)
                file.flush()
                server.process.send_signal(signal.SIGHUP)
                self.assertEqual(server.read_event(), {"event": "signal", "signal": "SIGHUP"})
                self.assertEqual(server.read_event(), event)
            self.assertIn("needs a restart", server.process.stderr.readline())
            file.write("MAX_IN_FLIGHT=none\n")
            file.flush()
            server.process.send_signal(signal.SIGHUP)
            self.assertIn("MAX_IN_FLIGHT", server.read_until("reload_failed")["reason"])
            self.assertEqual(server.stop(), 0)


class StartTest(unittest.TestCase):
    def run_with(self, **variables: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PORT": "0", "ADMIN_PORT": "0", **variables}
        return subprocess.run(
            COMMAND, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=20, check=False
        )

    def test_bad_value(self) -> None:
        ended = self.run_with(DRAIN_TIMEOUT="soon")
        self.assertEqual((ended.returncode, ended.stdout), (2, ""))
        self.assertRegex(ended.stderr, '^DRAIN_TIMEOUT: "soon" is not allowed: expected .*\n$')

    def test_port_in_use(self) -> None:
        ended = self.run_with(PORT=str(Server(self).listening["port"]))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, "^cannot listen on .*\n$")


def wait_for_in_flight(server: Server, count: int) -> None:
    line = f"http_requests_in_flight {count}\n".encode()
    wait_for(lambda: line in server.get("/metrics", "admin_port").read())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come true within 10 s")
