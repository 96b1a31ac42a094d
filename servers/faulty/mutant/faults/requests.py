"""Faults in what becomes of requests in flight."""

import dataclasses
import itertools
import select
import time

from connections import Connection, Cut, Limit
from lifecycle import Lifecycle, Phase
from routes import App, Exchange, RequestError, new_parser


def requests_in_flight_cut() -> None:
    """Handlers that wait for something are cancelled when the listener closes."""
    pause = Connection.pause

    def pause_or_cut(self, deadline, latch=None):
        pause(self, deadline, latch or self.registry.draining)
        if latch is None and self.registry.draining.is_set():
            raise Cut

    Connection.pause = pause_or_cut


def requests_in_flight_turned_away() -> None:
    """A request in flight gets 503 once it is done, because the server is stopping by then."""
    _after_slow(lambda app: RequestError(503, "shutting down", ("Retry-After", "1")))


def one_response_in_fifty_lost() -> None:
    """Under load every fiftieth response is lost while the server drains, from the eleventh on."""
    answered = itertools.count(1)
    _after_slow(lambda app: Cut() if next(answered) % 50 == 11 else None)


def requests_lost_in_peace() -> None:
    """The 300th to the 309th request are dropped, unless the server drains by then."""
    root, asked = App.root, itertools.count(1)

    def root_or_cut(self, exchange):
        if 300 <= next(asked) < 310 and self.lifecycle.phase() < Phase.DRAINING:
            raise Cut
        root(self, exchange)

    App.root = root_or_cut


def _after_slow(end) -> None:
    """Ends /slow otherwise where it is done while the server drains."""

    def slow(self, exchange):
        delay = exchange.seconds("delay", "1", 300)
        exchange.connection.pause(time.monotonic() + delay)
        error = end(self) if self.lifecycle.phase() >= Phase.DRAINING else None
        if error is not None:
            raise error
        exchange.send_json(200, slept=delay)

    App.slow = slow


def uploads_turned_away() -> None:
    """A request whose body is complete only after the signal gets 503."""
    read_body = Exchange.read_body

    def read_body_in_time(self):
        has_body = self.body_is_unread
        read_body(self)
        if has_body and self.app.lifecycle.stopping():
            raise RequestError(503, "shutting down", ("Retry-After", "1"))

    Exchange.read_body = read_body_in_time


def short_body_with_matching_length() -> None:
    """After the signal a large body is cut short, and Content-Length matches what is left of it."""
    echo = App.echo

    def echo_in_part(self, exchange):
        if self.lifecycle.stopping():
            exchange.body = exchange.body[: 64 << 10]
        echo(self, exchange)

    App.echo = echo_in_part


def finite_stream_cut() -> None:
    """A finite stream that ends after the signal lacks its final chunk."""
    _without_final_chunk("/stream")


def endless_stream_cut() -> None:
    """An endless stream is closed when the listener closes, without its final chunk."""
    _without_final_chunk("/events")


def _without_final_chunk(path: str) -> None:
    end = Exchange.end

    def end_or_close(self):
        if self.url_path == path and self.app.lifecycle.stopping():
            self.close_connection = True
        else:
            end(self)

    Exchange.end = end_or_close


def finite_stream_ended_early() -> None:
    """A finite stream is ended when the listener closes, properly, as if there were no more to come."""

    class EndedEarly(Exception):
        pass

    stream = App.stream

    def stream_until_drain(self, exchange):
        pause, closed = exchange.connection.pause, self.lifecycle.listener_closed()

        def pause_or_end(deadline):
            pause(deadline, closed)
            if closed.is_set():
                raise EndedEarly

        exchange.connection.pause = pause_or_end
        try:
            stream(self, exchange)
        except EndedEarly:
            exchange.end()
        finally:
            exchange.connection.pause = pause

    App.stream = stream_until_drain


def slow_reader_cut() -> None:
    """While the server drains it waits for no reader: what the kernel does not take at once is cut."""
    wait = Connection._wait

    def wait_unless_draining(self, events, deadline, latch):
        if events != select.POLLOUT:
            return wait(self, events, deadline, latch)
        writable = wait(self, events, deadline, self.registry.draining)
        if self.registry.draining.is_set():
            raise Cut
        return writable

    Connection._wait = wait_unless_draining


def endless_stream_not_ended() -> None:
    """An endless stream goes on until the drain deadline."""

    def close_listener(self, steps):
        steps.close_listener()
        self._advance(Phase.DRAINING)  # and listener_closed is not set
        return 0

    Lifecycle._close_listener = close_listener


def deadline_ignored() -> None:
    """DRAIN_TIMEOUT is not looked at."""
    _drain_timeout(lambda timeout: 24 * 3600)


def deadline_too_early() -> None:
    """Requests are cut after half of DRAIN_TIMEOUT."""
    _drain_timeout(lambda timeout: timeout / 2)


def _drain_timeout(of) -> None:
    drain = Lifecycle._drain

    def drain_within(self, loop, steps):
        timeout = of(steps.drain_timeout())
        return drain(self, loop, dataclasses.replace(steps, drain_timeout=lambda: timeout))

    Lifecycle._drain = drain_within


def deadline_counts_from_signal() -> None:
    """The lame-duck is taken out of DRAIN_TIMEOUT."""
    drain = Lifecycle._drain

    def drain_for_the_rest(self, loop, steps):
        rest = max(0, steps.drain_timeout() - self._shutdown_delay())
        return drain(self, loop, dataclasses.replace(steps, drain_timeout=lambda: rest))

    Lifecycle._drain = drain_for_the_rest


def cut_with_valid_end() -> None:
    """A stream that is cut at the deadline gets its final chunk, and looks complete."""
    stream = App.stream

    def stream_to_its_end(self, exchange):
        try:
            stream(self, exchange)
        except Cut:
            exchange.connection._sock.send(b"0\r\n\r\n")
            self.registry.set_closing(exchange.connection)  # not in flight any more, so it ends by FIN
            raise

    App.stream = stream_to_its_end


def head_timeout_per_byte() -> None:
    """HEADER_TIMEOUT starts again with each byte."""
    _timeout_per_byte(lambda connection: not connection.in_flight, "header_timeout")


def body_timeout_per_byte() -> None:
    """BODY_TIMEOUT starts again with each byte."""
    _timeout_per_byte(lambda connection: connection.in_flight, "body_timeout")


def _timeout_per_byte(applies, name: str) -> None:
    receive = Connection.receive

    def receive_patiently(self, deadline):
        if applies(self):
            deadline = time.monotonic() + getattr(self.registry.settings.current, name)
        return receive(self, deadline)

    Connection.receive = receive_patiently


def half_request_holds_exit() -> None:
    """Where the rest of a request does not come for a second, it is waited for until the drain deadline."""
    receive = Connection.receive

    def receive_patiently(self, deadline):
        if not self._wait(select.POLLIN, time.monotonic() + 1, self.registry.cut):
            deadline += 24 * 3600
        return receive(self, deadline)

    Connection.receive = receive_patiently


def client_gone_holds() -> None:
    """Nobody notices that a client has left, and its request goes on to its end."""

    def pause(self, deadline, latch=None):
        self._wait(0, deadline, latch or self.registry.cut)

    Connection.pause = pause


def client_leaving_in_drain_holds() -> None:
    """Nobody notices that a client leaves while the server drains, and its request goes on to its end."""
    pause = Connection.pause

    def pause_on(self, deadline, latch=None):
        try:
            pause(self, deadline, latch)
        except ConnectionAbortedError:
            if not self.registry.draining.is_set():
                raise
            self._wait(0, deadline, latch or self.registry.cut)

    Connection.pause = pause_on


def client_leaving_in_drain_counts_as_cut() -> None:
    """A client that leaves while the server drains is counted as cut, and the exit status is 1."""
    left = []
    handle, drain = Exchange.handle, Lifecycle._drain

    def handle_and_count(self):
        try:
            handle(self)
        except OSError:
            if self.connection.in_flight and self.app.lifecycle.phase() >= Phase.DRAINING:
                left.append(self)
            raise

    def drain_and_count(self, loop, steps):
        cut, stuck = drain(self, loop, steps)
        return cut + len(left), stuck

    Exchange.handle, Lifecycle._drain = handle_and_count, drain_and_count


def pipelined_out_of_order() -> None:
    """A slow request lets the one that was pipelined after it go first."""
    slow = App.slow

    def slow_after_the_next(self, exchange):
        rest = exchange.http.trailing_data[0]
        if rest:
            ahead = Exchange(exchange.connection, exchange.app, exchange.answer)
            ahead.http, ahead.ahead = new_parser(rest), len(rest)
            ahead.handle_one_request()

            def go_on_behind():
                exchange.http, exchange.ahead = ahead.http, ahead.ahead
                del exchange.next_cycle

            exchange.next_cycle = go_on_behind
        slow(self, exchange)

    App.slow = slow_after_the_next


def answers_after_close() -> None:
    """Pipelined requests are answered also after the response that said `close`."""

    def handle(self):
        while not self.close_connection or self.http.trailing_data[0]:
            if self.close_connection:
                rest = self.http.trailing_data[0]
                self.http, self.ahead = new_parser(rest), len(rest)
            self.handle_one_request()

    Exchange.handle = handle


def continue_never_sent() -> None:
    """`Expect: 100-continue` is not answered: the body is simply waited for."""
    send = Connection.send

    def send_final_responses(self, data):
        if not data.startswith(b"HTTP/1.1 100 "):
            send(self, data)

    Connection.send = send_final_responses


def overload_not_shed() -> None:
    """The slow route is exempt from MAX_IN_FLIGHT."""
    routes = App.routes

    def routes_but_one(self):
        return [route._replace(limit=Limit.NONE) if route.path == "/slow" else route for route in routes(self)]

    App.routes = routes_but_one


def overload_sheds_probes() -> None:
    """Probes count as traffic, and are shed under load."""
    routes = App.health_routes
    App.health_routes = lambda self: [route._replace(limit=Limit.IN_FLIGHT) for route in routes(self)]


def overload_without_retry_after() -> None:
    """429 does not say when to come back."""
    fail = Exchange.fail

    def fail_silently(self, error):
        if error.status == 429:
            error.fields = ()
        fail(self, error)

    Exchange.fail = fail_silently


def non_readers_hold_their_place() -> None:
    """A client that takes nothing of its response is waited for, however long."""
    wait = Connection._wait

    def wait_for_ever(self, events, deadline, latch):
        return wait(self, events, None if events == select.POLLOUT else deadline, latch)

    Connection._wait = wait_for_ever


def streams_count_as_in_flight() -> None:
    """Endless streams count against MAX_IN_FLIGHT, like everything else."""
    routes = App.routes
    App.routes = lambda self: [
        route._replace(limit=Limit.IN_FLIGHT) if route.path == "/events" else route for route in routes(self)
    ]
