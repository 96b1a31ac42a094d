"""aiohttp's own server. `run_app` handles SIGTERM and SIGINT: it stops listening, closes idle connections, waits for
the handlers for `shutdown_timeout`, which is 60 s by default, then cancels them.

https://docs.aiohttp.org/en/stable/web_advanced.html#graceful-shutdown
"""

import asyncio
import os
import socket

from aiohttp import web

from announce import INSTANCE, announce

routes = web.RouteTableDef()


@routes.get("/")
async def root(_request: web.Request) -> web.Response:
    return web.json_response({"server": "aiohttp"})


@routes.get("/health")
@routes.get("/health/live")
@routes.get("/health/ready")
async def health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@routes.get("/slow")
async def slow(request: web.Request) -> web.Response:
    delay = float(request.query.get("delay", 1))
    await asyncio.sleep(delay)
    return web.json_response({"slept": delay})


@routes.post("/echo")
async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type=request.content_type)


@routes.get("/bytes")
async def bytes_(request: web.Request) -> web.Response:
    return web.Response(body=bytes(int(request.query.get("size", 1024))))


@routes.get("/stream")
async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    for chunk in range(int(request.query.get("chunks", 10))):
        if chunk > 0:
            await asyncio.sleep(float(request.query.get("interval", 0.1)))
        await response.write(f"chunk {chunk}\n".encode())
    return response


@routes.get("/events")
async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    number = 0
    while True:
        await response.write(f"data: {number}\n\n".encode())
        await asyncio.sleep(1)
        number += 1


async def identify(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Instance-Id"] = INSTANCE


app = web.Application()
app.add_routes(routes)
app.on_response_prepare.append(identify)

# A socket of our own, because with port 0 `run_app` tells the port to people only.
listener = socket.create_server((os.environ.get("HOST") or "127.0.0.1", int(os.environ.get("PORT") or "8080")))
web.run_app(
    app,
    sock=listener,
    shutdown_timeout=float(os.environ.get("DRAIN_TIMEOUT", "30")),
    access_log=None,
    print=lambda _: announce(listener.getsockname()[1]),
)
