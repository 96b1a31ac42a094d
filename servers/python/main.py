"""A server that loses no request when it is stopped.

It loads its configuration, listens, and serves until SIGTERM or SIGINT. Then readiness fails, the listener
closes without resetting anybody, idle connections get a last chance and a FIN, requests in flight finish,
and the process ends with a status that says whether anything was lost. lifecycle.py holds that sequence;
everything it needs is built here and passed in.

The main thread accepts and waits for signals and deadlines; each connection has a thread of its own, and no
other thread touches its socket.
"""

import os
import resource
import socket
from ipaddress import IPv4Address, IPv6Address

from accept_queue import BACKLOG, Listener
from config import Config, ConfigError, Settings
from connections import Registry
from lifecycle import Lifecycle, MainLoop, ReleaseStep, Signals, Steps
from log import flush, log_error, log_event
from routes import App


def main() -> int:
    # One process, without children, so it comes once. rule: signal-reaches-server, group-signal-drains
    # From here on a signal waits to be received instead of killing us. rule: startup-signal-ends-process
    signals = Signals()

    try:
        config = Config.load(os.environ.get)
    except ConfigError as error:
        log_error(error)
        return 2
    settings = Settings(config, os.environ.get)
    registry, admin_registry = Registry(settings), Registry(settings)
    lifecycle = Lifecycle(log_event, lambda: settings.current.shutdown_delay)

    raise_descriptor_limit()
    try:
        tcp = listen(config.host, config.port)
        admin_tcp = listen(config.admin_host, config.admin_port)
    except OSError as error:
        log_error(error)
        return 1

    app = App(settings, lifecycle, registry, new_instance())
    loop = MainLoop(signals)

    def fail(listener: socket.socket, reason: str) -> None:
        loop.remove(listener)  # which would report the same error again and again
        lifecycle.fail(reason)

    listener = Listener(tcp, registry, app.serve, lambda reason: fail(tcp, reason))
    admin_listener = Listener(admin_tcp, admin_registry, app.serve_admin, lambda reason: fail(admin_tcp, reason))
    loop.add(tcp, listener.accept)
    loop.add(admin_tcp, admin_listener.accept)

    lifecycle.ready()
    log_event("listening", port=port(tcp), admin_port=port(admin_tcp), pid=os.getpid(), instance=app.instance)

    def close_listener() -> None:
        queue = listener.empty_accept_queue(loop.turn)
        loop.remove(tcp)
        registry.begin_drain()
        log_event(
            "accept_queue",
            emptied=queue.emptied,
            minimum_ttl=queue.minimum_ttl,
            half_open=queue.half_open,
            lost=queue.lost,
        )
        if queue.error is not None:
            raise queue.error

    def close_admin() -> None:
        admin_listener.close()
        admin_registry.answered()  # a /prestop waited for the same delay as we did: its answer comes first
        admin_registry.cut_in_flight()

    return lifecycle.run(
        loop,
        Steps(
            drain_timeout=lambda: settings.current.drain_timeout,
            close_listener=close_listener,
            drained=registry.drained,
            cut_in_flight=registry.cut_in_flight,
            # The admin listener answers liveness to the end, so it is released last.
            release=[ReleaseStep("admin", timeout=1, run=close_admin)],
            reload=lambda: reload(settings),
        ),
    )


def listen(host: IPv4Address | IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    try:
        # socketserver's backlog is 5: a small burst would already wait for repeated SYNs.
        listener = socket.create_server(
            (str(host), port), family=family, backlog=BACKLOG, dualstack_ipv6=host == IPv6Address("::")
        )
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {os.strerror(error.errno)}") from error
    listener.setblocking(False)
    return listener


def raise_descriptor_limit() -> None:
    """A soft limit of 1024 is there for programs that use select(2); this one does not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reload(settings: Settings) -> None:
    try:
        changed = settings.reload()  # rule: hup-keeps-serving
    except ConfigError as error:
        log_error(error)
        log_event("reload_failed", reason=str(error))
        return
    log_event("reloaded", changed=changed)


def port(listener: socket.socket) -> int:
    return listener.getsockname()[1]


def new_instance() -> str:
    """Names this process, so that a client can tell it from its successor on the same port."""
    return os.urandom(8).hex()


if __name__ == "__main__":
    status = main()
    flush()
    # Everything that had to finish has finished. sys.exit would now take the interpreter apart, which takes
    # longer than the rest of the exit, while threads of admin connections still run in it.
    os._exit(status)
