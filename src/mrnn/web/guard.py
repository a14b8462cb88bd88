"""Who is answered, and how much is taken of what they send. All of it is decided here, before a request is read.

| a request | answer |
|---|---|
| whose host, length or framing can be read in two ways, or not at all | 400 |
| without a token, by a name that is not this machine's (DNS rebinding) | 421 |
| that a browser makes for a page of another origin | 403 |
| without the server's token | 401 |
| that does not tell its length | 411 |
| of more bytes than the limit, counted as they come | 413 |
| whose body is no form that may hold a photo | 415 |
| while too many bytes of others wait | 503 |
"""

import asyncio
import contextlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = {"/", "/app.js", "/style.css", "/icon.svg"}  # nothing is secret here, and other pages may link to it
OPEN = PAGE | {"/v1/health", "/openapi.json"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:]+)(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and all of them together.

    Args:
        upload: Bytes of a request.
        held: Bytes of all requests whose photos are not decoded yet.
        pixels: Of a photo, as it is decoded: a JPEG may be reduced meanwhile.
        sentences: To rank for a photo.
        characters: Of a sentence.
        tokens: Of a sentence, its end included.
        work: Tokens of all sentences to rank for a photo.
        line: Requests that may wait for the model.
    """

    upload: int = 25_000_000
    held: int = 300_000_000
    pixels: int = 60_000_000
    sentences: int = 1000
    characters: int = 500
    tokens: int = 60
    work: int = 5000
    line: int = 256


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_host(text: str) -> tuple[str, int | None]:
    """Name or address, and port if there is one, of a Host header.

    Raises:
        ValueError: It is not just that.
    """
    found = _HOST.fullmatch(text.lower())
    if found is None:
        raise ValueError("no name and port")
    name, port = found["name"], int(found["port"]) if found["port"] else None
    if name.startswith("["):
        name = str(ipaddress.IPv6Address(name[1:-1]))
    elif not _NAME.fullmatch(name) or len(name) > 253:
        raise ValueError("no name")
    if port is not None and not 0 < port < 2**16:
        raise ValueError("no port")
    return name, port


class Body:
    """What a client sends, counted as it comes.

    Args:
        receive: ASGI's.
        guard: That counts the bytes of all.
        empty: Whether nothing will come.
    """

    def __init__(self, receive: Receive, guard: "Guard", empty: bool):
        self._receive, self._guard, self._held, self._size = receive, guard, 0, 0
        self._read = asyncio.Event()
        self._empty = empty
        if empty:
            self._read.set()

    async def receive(self) -> Message:
        """ASGI's `receive`, for the application.

        Raises:
            HTTPException: More has come than may.
        """
        if self._empty:
            self._empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._read.is_set():  # that the client has gone is found out by `gone`, which ends the application
            await asyncio.Event().wait()
        message = await self._receive()
        n = len(message.get("body", b""))
        self._size += n
        self._held += n
        self._guard.held += n
        limits = self._guard.limits
        if self._size > limits.upload:
            raise _too_large(limits)
        if self._guard.held > limits.held:
            raise _too_many()
        if not message.get("more_body"):
            self._read.set()
        return message

    async def gone(self) -> None:
        """Wait until all has been read, and then until the client has gone or the answer is complete."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def release(self) -> None:
        """Its bytes are not held any more."""
        self._guard.held -= self._held
        self._held = 0


class Guard:
    """Stands around the application.

    A request ends when its client goes, or when the server does; whatever works for it is cancelled.

    Args:
        token: That every request must bear; None for none, and then only requests to this machine by a name of its
            own are answered, so that no page elsewhere can make a browser ask in its name.
        limits: What is taken.
        answered: Called with the scope, the status and the seconds of every request.

    Attributes:
        held: Bytes of all requests whose photos are not decoded yet.
    """

    def __init__(self, token: str | None, limits: Limits, answered: Callable[[Scope, int, float], None]):
        self.limits, self.answered, self.held = limits, answered, 0
        self._token = None if token is None else token.encode()
        self._running: set[asyncio.Task] = set()
        self._over = False

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """The application, guarded."""
        return partial(self._serve, app)

    def end(self) -> None:
        """Answer all requests that still run, and all later ones, that the server stops."""
        self._over = True
        for task in self._running:
            task.cancel()

    async def _serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        clock, status, complete = time.perf_counter(), 499, False

        async def respond(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            self._admit(scope)
            if self._over:
                raise _stopping()
        except HTTPException as refused:
            await _told(refused)(scope, receive, respond)
            self.answered(scope, status, time.perf_counter() - clock)
            return
        body = Body(receive, self, _length(scope) == 0)
        scope.setdefault("state", {})["body"] = body
        task = asyncio.ensure_future(app(scope, body.receive, respond))
        watch = asyncio.ensure_future(body.gone())
        watch.add_done_callback(lambda _: None if complete else task.cancel())
        self._running.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            if self._over and status == 499:
                await _told(_stopping())(scope, receive, respond)
        finally:
            self._running.discard(task)
            watch.cancel()
            body.release()
            self.answered(scope, status, time.perf_counter() - clock)

    def _admit(self, scope: Scope) -> None:
        """Let a request through, by its head alone.

        Raises:
            HTTPException: It is refused.
        """
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        host = self._host(scope)
        length = _length(scope)
        if path not in PAGE:
            _check_origin(scope, host)
        if path not in OPEN:
            self._check_token(scope)
        if length > self.limits.upload:
            raise _too_large(self.limits)
        if scope["method"] == "POST" and length and not _is_form(scope):
            raise HTTPException(415, "send the photo and what else there is as multipart/form-data")
        if length and self.held + length > self.limits.held:
            raise _too_many()

    def _host(self, scope: Scope) -> tuple[str, int | None]:
        try:
            (text,) = _values(scope, b"host")
            host = split_host(text)
        except ValueError:
            raise HTTPException(400, "the Host header is no name and port") from None
        if self._token is None and not is_loopback(host[0]):
            raise HTTPException(421, "without a token only this machine's own names are answered")
        return host

    def _check_token(self, scope: Scope) -> None:
        if self._token is None:
            return
        given = _values(scope, b"authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        right = hmac.compare_digest(token.strip().encode("latin-1"), self._token)
        if kind.lower() != "bearer" or not right:
            raise HTTPException(401, "this server wants a token", {"WWW-Authenticate": "Bearer"})


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"more than {limits.upload:,} bytes")


def _too_many() -> HTTPException:
    return HTTPException(503, "too many photos are being sent; try again soon", {"Retry-After": "1"})


def _stopping() -> HTTPException:
    return HTTPException(503, "the server is being stopped", {"Retry-After": "5"})


def _told(error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def _values(scope: Scope, name: bytes) -> Sequence[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _length(scope: Scope) -> int:
    """Bytes that a request says it has.

    Raises:
        HTTPException: It does not say so, or not clearly.
    """
    lengths, codings = _values(scope, b"content-length"), _values(scope, b"transfer-encoding")
    if len(lengths) > 1 or (lengths and codings) or not all(re.fullmatch("[0-9]{1,19}", n) for n in lengths):
        raise HTTPException(400, "the length of the request is not clear")
    if codings or (not lengths and scope["method"] in ("POST", "PUT", "PATCH")):
        raise HTTPException(411, "a request must tell its length")
    return int(lengths[0]) if lengths else 0


def _is_form(scope: Scope) -> bool:
    """Whether a body is said to be a form that may hold a photo: of other kinds none is read."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in _values(scope, b"content-type")]
    return kinds == ["multipart/form-data"]


def _check_origin(scope: Scope, host: tuple[str, int | None]) -> None:
    """Refuse what a browser asks for a page of another origin.

    Raises:
        HTTPException: It says so itself.
    """
    sites, origins = _values(scope, b"sec-fetch-site"), _values(scope, b"origin")
    if any(site not in ("same-origin", "none") for site in sites) or not all(_same(o, host) for o in origins):
        raise HTTPException(403, "pages of other origins are not answered")


def _same(origin: str, host: tuple[str, int | None]) -> bool:
    """Whether an origin is the host's; a proxy may have taken encryption off, so http and https are as good."""
    scheme, _, rest = origin.partition("://")
    usual = {"http": 80, "https": 443}.get(scheme)
    with contextlib.suppress(ValueError):
        name, port = split_host(rest)
        return usual is not None and (name, port or usual) == (host[0], host[1] or usual)
    return False
