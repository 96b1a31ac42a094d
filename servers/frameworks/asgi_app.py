"""The application that uvicorn and granian serve: the routes of ../CONTRACT.md on FastAPI. It knows nothing of
shutdown: that is the server's part."""

import asyncio

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from announce import INSTANCE

app = FastAPI()


@app.middleware("http")
async def identify(request: Request, call_next):
    response = await call_next(request)
    response.headers["X-Instance-Id"] = INSTANCE
    return response


@app.get("/")
async def root():
    return {"server": "fastapi"}


@app.get("/health")
@app.get("/health/live")
@app.get("/health/ready")
async def health():
    return {"status": "ok"}


@app.get("/slow")
async def slow(delay: float = 1):
    await asyncio.sleep(delay)
    return {"slept": delay}


@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body(), media_type=request.headers.get("Content-Type"))


@app.get("/bytes")
async def bytes_(size: int = 1024):
    return Response(bytes(size), media_type="application/octet-stream")


@app.get("/stream")
async def stream(chunks: int = 10, interval: float = 0.1):
    async def body():
        for chunk in range(chunks):
            if chunk > 0:
                await asyncio.sleep(interval)
            yield f"chunk {chunk}\n"

    return StreamingResponse(body(), media_type="text/plain")


@app.get("/events")
async def events():
    async def body():
        number = 0
        while True:
            yield f"data: {number}\n\n"
            await asyncio.sleep(1)
            number += 1

    return StreamingResponse(body(), media_type="text/event-stream")
