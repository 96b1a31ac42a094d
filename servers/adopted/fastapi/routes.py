"""What the service does. Of the shutdown it knows the phase, and that endless streams end."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from lifecycle import Lifecycle


def seconds(variable: str, fallback: float) -> float:
    return float(os.environ.get(variable) or fallback)


BODY_TIMEOUT = seconds("BODY_TIMEOUT", 30)
MAX_BYTES = 64 << 20  # of a response
# uvicorn takes any one piece at once, whether or not the client reads: a large one would not count as in flight.
PIECE = 65536


class Traffic:
    """What surrounds the application: it counts requests in flight, sheds what is too much, and announces the end."""

    def __init__(self, app: object, lifecycle: Lifecycle, instance: str) -> None:
        self.in_flight = 0
        self._app, self._lifecycle, self._instance = app, lifecycle, instance
        self._limit = int(os.environ.get("MAX_IN_FLIGHT") or 100)
        self._too_many = JSONResponse({"error": "too many requests"}, 429, {"Retry-After": "1"})

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        async def announce(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-instance-id", self._instance.encode()))
                if self._lifecycle.stopping():  # by now, and not when the request came
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        self.in_flight += 1
        try:
            sheds = self.in_flight > self._limit and not scope["path"].startswith("/health")
            await (self._too_many if sheds else self._app)(scope, receive, announce)
        finally:
            self.in_flight -= 1


def health(lifecycle: Lifecycle) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live")
    async def live():
        return {"phase": str(lifecycle.phase())}

    @router.get("/health")
    @router.get("/health/ready")
    async def ready():
        return JSONResponse({"phase": str(lifecycle.phase())}, 200 if lifecycle.is_ready() else 503)

    return router


def admin_routes(lifecycle: Lifecycle, traffic: Traffic) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def metrics():
        return PlainTextResponse(f"http_requests_in_flight {traffic.in_flight}\n")

    @router.api_route("/prestop", methods=["GET", "POST"])
    async def prestop():
        deadline = lifecycle.begin_lame_duck("prestop")
        await asyncio.sleep(deadline - time.monotonic())
        return {"phase": str(lifecycle.phase())}

    return router


def routes(lifecycle: Lifecycle) -> APIRouter:
    router = APIRouter()

    @router.get("/")
    async def root():
        return {"server": "fastapi"}

    @router.get("/slow")
    async def slow(request: Request, delay: Annotated[float, Query(ge=0, le=600)] = 1):
        try:
            async with asyncio.timeout(delay):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return {"slept": delay}
        return Response()  # nobody is there to read it

    @router.post("/echo")
    async def echo(request: Request):
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await request.body()
        except TimeoutError:
            return JSONResponse({"error": "the body took too long"}, 408, {"Connection": "close"})
        return Response(body, media_type=request.headers.get("Content-Type"))

    @router.get("/bytes")
    async def bytes_(size: Annotated[int, Query(ge=0, le=MAX_BYTES)] = 1024):
        async def body() -> AsyncIterator[bytes]:
            for sent in range(0, size, PIECE):
                yield bytes(min(PIECE, size - sent))

        return StreamingResponse(body(), headers={"Content-Length": str(size)}, media_type="application/octet-stream")

    @router.get("/stream")
    async def stream(
        chunks: Annotated[int, Query(ge=0, le=10_000)] = 10, interval: Annotated[float, Query(ge=0, le=60)] = 0.1
    ):
        async def body() -> AsyncIterator[str]:
            for chunk in range(chunks):
                if chunk > 0:
                    await asyncio.sleep(interval)
                yield f"chunk {chunk}\n"

        return StreamingResponse(body(), media_type="text/plain")

    @router.get("/events")
    async def events():
        async def body() -> AsyncIterator[str]:
            event = 0
            while not lifecycle.listener_closed().is_set():
                yield f"data: {event}\n\n"
                await asyncio.sleep(1)
                event += 1

        return StreamingResponse(body(), media_type="text/event-stream")

    return router
