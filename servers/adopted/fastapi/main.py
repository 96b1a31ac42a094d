"""FastAPI on uvicorn, stopped by lifecycle.py: that of ../../python, as it is.

uvicorn answers signals by itself. Here it does not: it runs in a thread and is told to stop when the lifecycle comes
to its listener, while the main thread waits for signals and deadlines.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading

import uvicorn
from fastapi import FastAPI, Request, Response
from lifecycle import Latch, Lifecycle, MainLoop, Signals, Steps

INSTANCE = os.urandom(8).hex()


def seconds(variable: str, fallback: str) -> float:
    return float(os.environ.get(variable) or fallback)


def log_event(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


app = FastAPI()
lifecycle = Lifecycle(log_event, lambda: seconds("SHUTDOWN_DELAY", "0"))


@app.middleware("http")
async def announce_close(request: Request, call_next):
    response = await call_next(request)
    response.headers["X-Instance-Id"] = INSTANCE
    if lifecycle.stopping():
        response.headers["Connection"] = "close"
    return response


@app.get("/")
async def root():
    return {"server": "fastapi"}


@app.get("/health/live")
async def live():
    return {"phase": str(lifecycle.phase())}


@app.get("/health/ready")
async def ready(response: Response):
    response.status_code = 200 if lifecycle.is_ready() else 503
    return {"phase": str(lifecycle.phase())}


@app.get("/slow")
async def slow(delay: float = 1):
    await asyncio.sleep(delay)
    return {"slept": delay}


class Server(uvicorn.Server):
    def capture_signals(self):
        return contextlib.nullcontext()  # they are the lifecycle's


def main() -> int:
    signals = Signals()
    listener = socket.create_server((os.environ.get("HOST") or "127.0.0.1", int(os.environ.get("PORT") or "8080")))
    server = Server(uvicorn.Config(app, log_level="warning"))
    drained = Latch()

    def serve() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            drained.set()

    def close_listener() -> None:
        server.should_exit = True  # uvicorn then closes its idle connections as well

    def cut_in_flight() -> int:
        server.force_exit = True
        return len(server.server_state.tasks)

    threading.Thread(target=serve, daemon=True).start()
    lifecycle.ready()
    log_event("listening", port=listener.getsockname()[1], pid=os.getpid(), instance=INSTANCE)
    return lifecycle.run(
        MainLoop(signals),
        Steps(
            drain_timeout=lambda: seconds("DRAIN_TIMEOUT", "30"),
            close_listener=close_listener,
            drained=drained,
            cut_in_flight=cut_in_flight,
            release=[],  # a database pool would be closed here
            reload=lambda: None,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
