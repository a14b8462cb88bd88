"""The server's connections: uvicorn, with the time-outs, the cap and the end that it does not have."""

import asyncio
import contextlib
import ctypes
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from mrnn.web.guard import HEADERS

HEAD = 10.0  # seconds in which the head of a request must come, on a new connection and after an answer
BODY = 120.0  # and then its body
ANSWER = 60.0  # in which a client must take what is written to it
DRAIN = 15.0  # after a stop, in which requests are still answered
LAST = 5.0  # and then in which the others must take that they are not
GRACE = 30  # after which nothing runs any more, whatever happens
MOST = 512  # connections
AT_ONCE = 32  # new ones that are taken before old ones give way
QUEUE = 1024  # new ones that the system keeps meanwhile


def most_connections() -> int:
    """Connections that may be open; each may need a second file for its upload, and the library needs some."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else max(8, min(MOST, (files - 64 - 2 * AT_ONCE) // 2))


def give_memory_back() -> None:
    """Let glibc return what is freed: by itself it keeps a few hundred MiB of a captioned batch for ever."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 20)
        mallopt(trim_threshold, 1 << 20)


class Connection(H11Protocol):
    """A connection that is closed when nothing comes of it.

    Where there are as many as may be, the one that has asked nothing for the longest time gives way to a new one.

    Attributes:
        most: How many there may be.
        since: When it came to the point where it is.
    """

    most = most_connections()
    since = 0.0
    _timer: asyncio.TimerHandle | None = None
    _point: tuple[Any, ...] = ()

    def connection_made(self, transport: Any) -> None:
        """Take it, if need be in the place of another."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most:
            silent = [c for c in self.connections if isinstance(c, Connection) and c.silent and c is not self]
            if silent:
                min(silent, key=lambda c: c.since).give_up()
            else:
                self.app = _full

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._arm(0, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's own, which a single byte ends
        self._watch()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        """End after the answer in hand."""
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Tell in one line that this is no HTTP, and close; unless an answer has begun already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, text = HTTPStatus.BAD_REQUEST, json.dumps({"detail": "this is no HTTP that can be read in one way"})
            head = {"content-type": "application/json", "content-length": len(text), "connection": "close", **HEADERS}
            lines = [f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in head.items())]
            self.transport.write("\r\n".join([*lines, "", text]).encode())
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.conn.send_failed()
        self.transport.close()
        self._watch()

    @property
    def silent(self) -> bool:
        """Whether it waits for the head of a request."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def give_up(self) -> None:
        """Close it, and drop what its client does not take."""
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False  # to another protocol: none is spoken, and that need not be logged

    def _watch(self) -> None:
        """Give it time for what comes next, if it has come to another point."""
        ours, theirs = self.conn.our_state, self.conn.their_state
        answered = ours not in (h11.IDLE, h11.SEND_RESPONSE, h11.SEND_BODY)
        point = theirs, answered, self.flow.write_paused
        if point == self._point:
            return
        self._point, self.since = point, time.monotonic()
        if self.flow.write_paused:
            self._arm(ANSWER, self.give_up)
        elif theirs is h11.IDLE or answered:  # the rest of a request that was answered early is not waited for long
            self._arm(HEAD, self.give_up)
        elif theirs is h11.SEND_BODY:
            self._arm(BODY, self.give_up)
        else:
            self._arm(0, None)

    def _arm(self, seconds: float, then: Callable[[], None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if then is None else self.loop.call_later(seconds, then)


async def _full(scope: Any, receive: Any, send: Any) -> None:
    headers = {**HEADERS, "retry-after": "1", "connection": "close"}
    await JSONResponse({"detail": "too many connections; try again soon"}, 503, headers)(scope, receive, send)


class Server(uvicorn.Server):
    """Answers what it can after a stop, and tells the others that it ends.

    Args:
        app: Of `create_app`.
        host: Address to listen on.
        port: To listen on.
        root_path: Where a proxy has put it.
    """

    def __init__(self, app: FastAPI, host: str, port: int, root_path: str = ""):
        self.guard, self.indexing = app.state.guard, app.state.indexing
        config = uvicorn.Config(
            app,
            host,
            port,
            root_path=root_path,
            http=Connection,
            ws="none",
            log_level="error",
            server_header=False,
            backlog=AT_ONCE,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(QUEUE)  # asyncio has one number for both

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop."""
        self.indexing.stop()
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(DRAIN, self.guard.end), loop.call_later(DRAIN + LAST, self._give_up)]
        await super().shutdown(sockets)
        for timer in timers:
            timer.cancel()

    def _give_up(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.give_up()
