"""The shared application, and a task that tells when its worker listens: granian has no hook for that moment."""

import asyncio
import os
from contextlib import asynccontextmanager

from announce import announce
from asgi_app import app


async def announce_when_listening() -> None:
    address = os.environ.get("HOST") or "127.0.0.1", int(os.environ["LISTEN_PORT"])
    while True:
        try:
            _, writer = await asyncio.open_connection(*address)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            # The leader is the master, whose child this worker is.
            return announce(address[1], os.getppid())


@asynccontextmanager
async def lifespan(_app):
    task = asyncio.create_task(announce_when_listening())
    yield
    task.cancel()


app.router.lifespan_context = lifespan
