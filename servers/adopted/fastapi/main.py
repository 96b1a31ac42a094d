"""FastAPI on uvicorn, stopped by lifecycle.py. That file and log.py are links to the reference's, as they are; what the
service does is in routes.py.

The lifecycle has the main thread, where signals come; uvicorn has another one, and is told what to do. Its
`should_exit` closes idle connections together with the listener: so the listener is closed before that, alone.
"""

import asyncio
import os
import socket
import threading

import uvicorn
from fastapi import FastAPI

from lifecycle import Latch, Lifecycle, MainLoop, ReleaseStep, Signals, Steps
from log import flush, log_event
from routes import Traffic, admin_routes, health, routes, seconds

INSTANCE = os.urandom(8).hex()
# Read at the start: what is wrong must not show in the middle of a drain.
SHUTDOWN_DELAY = seconds("SHUTDOWN_DELAY", 0)
DRAIN_TIMEOUT = seconds("DRAIN_TIMEOUT", 30)
IDLE_LINGER = seconds("IDLE_LINGER", 1)


class Server(uvicorn.Server):
    """Says when it has started, and has a linger between its listener and its connections."""

    def __init__(self, app: object) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_keep_alive=75))
        self.up = threading.Event()
        self._linger_deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def close_listener(self) -> None:
        for listener in self.servers:
            listener.close()
        self._linger_deadline = min(self._linger_deadline, asyncio.get_running_loop().time() + IDLE_LINGER)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn asks ten times a second: whether it is over, which ends idle connections."""
        lingers = self.server_state.connections and asyncio.get_running_loop().time() < self._linger_deadline
        over = self._linger_deadline < float("inf") and not lingers
        return await super().on_tick(counter) or over


def main() -> None:
    signals = Signals()
    lifecycle = Lifecycle(log_event, lambda: SHUTDOWN_DELAY)
    app, admin_app = FastAPI(), FastAPI()
    traffic = Traffic(app, lifecycle, INSTANCE)
    for router in (health(lifecycle), routes(lifecycle)):
        app.include_router(router)
    for router in (health(lifecycle), admin_routes(lifecycle, traffic)):
        admin_app.include_router(router)
    listener, admin_listener = listen("HOST", "PORT", 8080), listen("ADMIN_HOST", "ADMIN_PORT", 9090)
    server, admin = Server(traffic), Server(admin_app)
    loop, drained, admin_ended = asyncio.new_event_loop(), Latch(), threading.Event()

    async def serve() -> None:
        admin_server = loop.create_task(admin.serve([admin_listener]))
        await server.serve([listener])
        drained.set()
        await admin_server
        admin_ended.set()

    def run_loop() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            server.up.set()
            if not drained.is_set():
                lifecycle.fail("uvicorn has ended")

    def fail(_: asyncio.AbstractEventLoop, context: dict) -> None:
        loop.default_exception_handler(context)
        if "_accept_connection" in str(context.get("handle")):  # asyncio would try again for ever
            lifecycle.fail(str(context["exception"]))
            loop.create_task(server.close_listener())

    def cut_in_flight() -> int:
        tasks, connections = server.server_state.tasks, server.server_state.connections
        cut = len(tasks) or len(connections)  # without a task: a response that is still being flushed
        for end in [task.cancel for task in tasks] + [connection.transport.abort for connection in connections]:
            loop.call_soon_threadsafe(end)
        return cut

    def close_admin() -> None:
        admin.should_exit = True
        admin_ended.wait(0.5)  # for the answer to a /prestop, which waited for the same delay as we did

    loop.set_exception_handler(fail)
    threading.Thread(target=run_loop, daemon=True).start()
    server.up.wait()
    lifecycle.ready()
    ports = {"port": listener.getsockname()[1], "admin_port": admin_listener.getsockname()[1]}
    log_event("listening", **ports, pid=os.getpid(), instance=INSTANCE)
    steps = Steps(
        drain_timeout=lambda: DRAIN_TIMEOUT,
        close_listener=lambda: asyncio.run_coroutine_threadsafe(server.close_listener(), loop).result(timeout=1),
        drained=drained,
        cut_in_flight=cut_in_flight,
        release=[ReleaseStep("admin", timeout=1, run=close_admin)],  # behind whatever else there is to release
        reload=lambda: None,
    )
    status = lifecycle.run(MainLoop(signals), steps)
    flush()
    os._exit(status)  # everything is released; what Python would still tidy up takes longer than the rest


def listen(host: str, port: str, fallback: int) -> socket.socket:
    address = (os.environ.get(host) or "127.0.0.1", int(os.environ.get(port) or fallback))
    return socket.create_server(address, backlog=2048)


if __name__ == "__main__":
    main()
