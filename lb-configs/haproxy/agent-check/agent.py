#!/usr/bin/env python3
"""Tells HAProxy whether an instance is to get requests: `up ready` if its readiness probe succeeds, else `drain`.

An instance that is slow to answer has not said that it stops: the word stays what it was, and whether it still lives is
for HAProxy's own checks to find out, which ask more than once. Else a busy minute takes out one instance after the other.

    python3 agent.py LISTEN INSTANCE...          agent.py 127.0.0.1:8090 127.0.0.1:8081 127.0.0.1:8082

HAProxy connects, sends one line with the address of the instance (agent-send), and reads one line. Only addresses
that were given here are asked: nobody gets to use the agent as a way into the network.
"""

import socketserver
import sys
from http.client import HTTPConnection, HTTPException

# HAProxy gives up on the agent after its `timeout check`, and then knows nothing new: answer before that.
PROBE_TIMEOUT = 0.5
PATH = "/health/ready"

READY, DRAIN = b"up ready\n", b"drain\n"


class Agent(socketserver.StreamRequestHandler):
    timeout = 1  # a client that sends nothing must not hold a thread

    def handle(self) -> None:
        instance = self.rfile.readline(256).decode("ascii", "replace").strip()
        if instance in self.server.words:
            self.server.words[instance] = word = word_of(instance) or self.server.words[instance]
            self.wfile.write(word)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True  # nothing here is worth waiting for at the end

    def __init__(self, listen: str, instances: list[str]) -> None:
        host, port = listen.rsplit(":", 1)
        super().__init__((host, int(port)), Agent)
        self.words = dict.fromkeys(instances, DRAIN)  # the last one of each; nobody has answered yet

    def handle_error(self, request: object, client_address: object) -> None:
        """HAProxy that hangs up, or is slow, is no news."""


def word_of(instance: str) -> bytes | None:
    """What is to be said of an instance; None where it has not answered in time, which says nothing."""
    connection = HTTPConnection(instance, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", PATH)
        return READY if 200 <= connection.getresponse().status < 300 else DRAIN
    except TimeoutError:
        return None
    except (OSError, HTTPException):
        return DRAIN
    finally:
        connection.close()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with Server(sys.argv[1], sys.argv[2:]) as server:
        server.serve_forever()
