"""uvicorn with one process, as a container runs it. It handles SIGTERM and SIGINT itself: it stops listening, waits
for requests in flight, then ends by the signal that it got.

https://www.uvicorn.org/settings/#timeouts
https://www.uvicorn.org/deployment/#running-programmatically
"""

import os

import uvicorn

from announce import announce


class Server(uvicorn.Server):
    """Says where it listens: with port 0 nobody else knows."""

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        announce(self.servers[0].sockets[0].getsockname()[1])


config = uvicorn.Config(
    "asgi_app:app",
    host=os.environ.get("HOST") or "127.0.0.1",
    port=int(os.environ.get("PORT") or "8080"),
    # Without it uvicorn waits for ever: for an endless stream, for instance.
    timeout_graceful_shutdown=int(float(os.environ.get("DRAIN_TIMEOUT", "30"))),
    log_level="warning",
)
Server(config).run()
