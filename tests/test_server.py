"""A real server and raw sockets: what is refused, what is waited for, what is dropped."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time

import numpy as np
import pytest
from made import COLOURS, photo, pipeline

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("lance", reason="pylance is not installed")

from filelock import FileLock

import mrnn.library.tables
from mrnn.library import Library
from mrnn.web import Limits, create_app, server
from mrnn.web.guard import Guard, split_host
from mrnn.web.indexing import Indexing
from mrnn.web.worker import Worker

LIMITS = Limits(upload=300_000, held=500_000, sentences=20, tokens=8, work=40)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=12)


@contextlib.contextmanager
def served(app):
    """A server in a thread; its port."""
    running = server.Server(app, "127.0.0.1", 0)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        thread = threading.Thread(target=running.run, args=[[bound]])
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield port
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(COLOURS):
        photo(folder / f"{colour}.jpg", colour, i)
    library = Library(tmp_path_factory.mktemp("server") / "library", pipe)
    library.index(folder)
    with served(create_app(pipe, library, limits=LIMITS)) as port:
        yield port


def read(connection) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; 0 if the connection was closed."""
    got = b""
    connection.settimeout(10)
    while more := connection.recv(1 << 16):
        got += more
        head, end, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and length and len(body) >= int(length[1]):
            break
    if not got:
        return 0, {}, b""
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def ask(port, *lines, body=b"", host="localhost") -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        hosts = [f"Host: {host}"] if host is not None else []
        connection.sendall("\r\n".join([lines[0], *hosts, *lines[1:], "", ""]).encode() + body)
        return read(connection)


# The head of a form, of which only the first bytes come.
BEGUN = (
    b"POST /v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n--x\r\n"
)


def begin(port) -> socket.socket:
    """A connection whose request is being read."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(BEGUN)
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Length: 100", "Transfer-Encoding: chunked"], CHUNKED, 400),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], CHUNKED, 400),
        (["Transfer-Encoding: chunked"], CHUNKED, 411),
        (["Transfer-Encoding: gzip, chunked"], CHUNKED, 400),
        (["Content-Length: 5", "Content-Length: 6"], b"hello", 400),
        (["Content-Length: +5"], b"hello", 400),
        (["Content-Length: five"], b"hello", 400),
        (["Content-Length: 99999999999999999999999"], b"hello", 400),
        (["Content-Length: 300001"], b"", 413),
        (["Content-Length: 5", "Content-Type: application/x-www-form-urlencoded"], b"&&&&&", 415),
        (["Content-Length: 2", "Content-Type: application/json"], b"{}", 415),
        ([], b"", 411),
    ],
)
def test_a_request_says_its_length_in_one_way(port, headers, body, status):
    got, names, text = ask(port, "POST /v1/caption HTTP/1.1", *headers, body=body)
    assert got == status
    assert json.loads(text)["detail"]
    assert names["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:80")),
        *((host, 421) for host in ("elsewhere.example", "localhost.elsewhere.example", "127.1", "[::2]", "0.0.0.0")),
        *(
            (host, 400)
            for host in ("user@localhost", "localhost@evil", "localhost evil", "localhost,evil", "localhost/")
        ),
        *((host, 400) for host in ("", "localhost.", "localhost:", "localhost:x", "localhost:99999", "localhost:0")),
        *((host, 400) for host in ("::1", "[::1", "[::1%lo]", "[::1]x", "http://localhost")),
        *((host, 400) for host in ("localhost\r\nHost: localhost", None)),
    ],
)
def test_the_host_is_judged_as_it_stands(port, host, status):
    assert ask(port, "GET /v1/index HTTP/1.1", host=host)[0] == status
    if host is None:
        assert ask(port, "GET /v1/index HTTP/1.0", host=host)[0] == status


def test_hosts_are_read_as_names_and_ports():
    assert split_host("A.example:80") == ("a.example", 80)
    assert split_host("[0:0::1]") == ("::1", None)


def test_pages_of_other_origins_are_not_answered(port):
    own = f"localhost:{port}"
    for header, status in {
        "Origin: null": 403,
        "Origin: http://evil.example": 403,
        "Origin: http://localhost:1": 403,
        "Sec-Fetch-Site: cross-site": 403,
        "Sec-Fetch-Site: same-site": 403,
        "Sec-Fetch-Site: same-origin": 404,
        "Sec-Fetch-Site: none": 404,
        f"Origin: http://{own}": 404,
        "Accept: */*": 404,
    }.items():
        got = ask(port, f"GET /v1/thumbnail/{'0' * 64} HTTP/1.1", header, host=own)
        assert got[0] == status, header
        assert got[1]["cross-origin-resource-policy"] == "same-origin"
    assert ask(port, "GET / HTTP/1.1", "Sec-Fetch-Site: cross-site", host=own)[0] == 200, "a link from elsewhere"


def test_the_token_is_looked_at_before_the_body(pipe):
    with served(create_app(pipe, token="secret")) as port:
        for given in (
            [],
            ["Authorization: Bearer wrong"],
            ["Authorization: Bearer secret"] * 2,
            ["Authorization: secret"],
        ):
            # Not a byte of the body is ever sent.
            assert ask(port, "POST /v1/caption HTTP/1.1", "Content-Length: 1000", *given)[0] == 401
        right = ["Authorization: bearer secret"]
        assert ask(port, "GET /v1/index HTTP/1.1", *right, host="elsewhere.example")[0] == 200
        assert ask(port, "GET /v1/index HTTP/1.1", *right, "Origin: null", host="elsewhere.example")[0] == 403


async def through(guard, app, length, *messages) -> list[dict]:
    """What a guarded application sends when it gets messages, and then that the client has gone."""
    given, sent = iter([*messages, {"type": "http.disconnect"}]), []

    async def receive():
        await asyncio.sleep(0)
        return next(given)

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", str(length).encode())]
    headers.append((b"content-type", b"multipart/form-data; boundary=x"))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await asyncio.wait_for(guard(app)(scope, receive, send), 10)
    return sent


def part(n, more=True):
    return {"type": "http.request", "body": b"x" * n, "more_body": more}


def test_bytes_are_counted_as_they_come_and_what_all_hold_is_bounded():
    guard, seen = Guard(None, Limits(upload=100, held=150), lambda *_: None), []

    async def app(scope, receive, send):
        from starlette.exceptions import HTTPException

        try:
            while (await receive())["more_body"]:
                seen.append(guard.held)
        except HTTPException as error:
            seen.append(error.status_code)

    asyncio.run(through(guard, app, 10, part(60), part(60), part(60)))
    assert seen == [60, 413]
    assert guard.held == 0
    guard.held = 100
    asyncio.run(through(guard, app, 10, part(40), part(40)))
    assert seen[2:] == [140, 503]
    sent = asyncio.run(through(guard, app, 90, part(90)))
    assert (sent[0]["status"], len(seen)) == (503, 4)


def test_work_ends_when_its_client_goes_or_the_server_stops():
    guard, ended = Guard(None, Limits(), lambda *_: None), []

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    assert asyncio.run(through(guard, app, 10, part(10, more=False))) == []
    assert ended == [True]

    async def stopped() -> list[dict]:
        asyncio.get_running_loop().call_later(0.01, guard.end)
        return await through(guard, waits, 10, part(5))

    async def waits(scope, receive, send):
        await asyncio.Event().wait()

    assert asyncio.run(stopped())[0]["status"] == 503
    assert asyncio.run(through(guard, waits, 0))[0]["status"] == 503


def test_long_work_is_refused_by_its_tokens(port, tmp_path):
    red = photo(tmp_path / "red.jpg", "red").read_bytes()

    def post(verb, name, text):
        parts = [b'name="image"; filename="a"\r\n\r\n' + red, f'name="{name}"\r\n\r\n{text}'.encode()]
        body = b"".join(b"--x\r\nContent-Disposition: form-data; " + p + b"\r\n" for p in parts) + b"--x--\r\n"
        form = ["Content-Type: multipart/form-data; boundary=x", f"Content-Length: {len(body)}"]
        status, _, answer = ask(port, f"POST /v1/{verb} HTTP/1.1", *form, body=body)
        return status, json.loads(answer)

    assert post("explain", "sentence", "a " * 7)[0] == 200
    assert post("explain", "sentence", "a " * 8) == (422, {"detail": "a sentence of more than 7 words and signs"})
    assert post("search", "q", "a " * 8)[0] == 422
    assert post("rank", "sentences", "a red square\n" * 10)[0] == 200
    status, answer = post("rank", "sentences", "a red square\n" * 11)
    assert (status, "more than the limit of 40" in answer["detail"]) == (422, True)
    assert post("rank", "sentences", "\n" * 20_000)[0] == 422


def test_captions_pass_long_work_and_what_nobody_waits_for_is_dropped(pipe, tmp_path):
    worker, order, gate = Worker(pipe, 8), [], threading.Event()
    red = photo(tmp_path / "red.jpg", "red").read_bytes()

    def long(name, slices):
        def work(model):
            order.append(f"{name} begins")
            for _ in range(slices):
                model.model.text(np.array([pipe.vocabulary.start]), model.model.begin(1))
                gate.wait(10)
            order.append(f"{name} ends")

        return work

    async def ask():
        first = asyncio.create_task(worker.slowly(long("first", 100)))
        while not order:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(worker.slowly(long("second", 1)))
        caption = asyncio.create_task(worker.caption(red, n=1))
        search = asyncio.create_task(worker.soon(lambda _: order.append("a search")))
        third = asyncio.create_task(worker.slowly(long("third", 10**9)))
        await asyncio.sleep(0.05)
        second.cancel()
        gate.set()
        await asyncio.gather(caption, search, first)
        while "third begins" not in order:
            await asyncio.sleep(0.01)
        third.cancel()  # between two slices
        await worker.caption(red, n=1)
        asyncio.create_task(worker.slowly(long("last", 10**9)))  # noqa: RUF006
        while "last begins" not in order:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(worker.stop)

    asyncio.run(asyncio.wait_for(ask(), 60))
    assert order == ["first begins", "a search", "first ends", "third begins", "last begins"]
    assert not worker._thread.is_alive()


def closed(connection) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_connections_of_which_nothing_comes_are_closed(port, monkeypatch):
    monkeypatch.setattr(server, "HEAD", 1.0)
    monkeypatch.setattr(server, "BODY", 1.0)
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    health = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for connection, beginning in zip(connections, (b"", b"GET / HT", BEGUN, health), strict=True):
        connection.sendall(beginning)
    assert connections[2].recv(100).startswith(b"HTTP/1.1 100")
    assert read(connections[3])[0] == 200
    for connection in connections:
        assert closed(connection)
        connection.close()


def test_silent_connections_give_way(port, monkeypatch):
    monkeypatch.setattr(server.Connection, "most", 4)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    assert ask(port, "GET /v1/health HTTP/1.1")[0] == 200
    for connection in silent:
        connection.close()
    busy = [begin(port) for _ in range(4)]
    status, names, text = ask(port, "GET /v1/health HTTP/1.1")
    assert (status, names["retry-after"], json.loads(text)["detail"][:8]) == (503, "1", "too many")
    for connection in busy:
        connection.close()


def test_a_stop_ends_with_a_full_line(pipe, monkeypatch):
    monkeypatch.setattr(server, "DRAIN", 0.1)
    with served(create_app(pipe)) as port:
        connections = [begin(port) for _ in range(3)]
    for connection in connections:
        assert read(connection)[0] == 503
        connection.close()


def test_a_server_does_not_wait_for_another_that_indexes(pipe, tmp_path):
    photo(tmp_path / "photos" / "red.jpg", "red")
    library = Library(tmp_path / "library", pipe)
    indexing = Indexing(library, tmp_path / "photos", interval=0.05)

    async def serve() -> None:
        with FileLock(tmp_path / "library" / "lock"):
            task = asyncio.create_task(indexing.run())
            await asyncio.sleep(0.2)
            assert len(library) == 0
        while len(library) == 0:
            await asyncio.sleep(0.02)
        with FileLock(tmp_path / "library" / "lock"):
            indexing.stop()
            await task

    asyncio.run(asyncio.wait_for(serve(), 30))


def test_a_library_that_others_tidy_is_read_as_it_is_now(pipe, tmp_path, monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr(mrnn.library.tables, "_KEPT", timedelta(0))
    for i in range(3):
        photo(tmp_path / "photos" / f"red{i}.jpg", "red", i)
    reader, writer = (Library(tmp_path / "library", pipe) for _ in range(2))
    writer.index(tmp_path / "photos")
    assert len(reader.search()) == 3
    latest = reader.tables.latest

    def then_tidied(name):
        table = latest(name)
        reader.tables.latest = latest
        photo(tmp_path / "photos" / "blue.jpg", "blue")
        writer.index(tmp_path / "photos")  # what the table was read from is gone
        return table

    reader.tables.latest = then_tidied
    assert len(reader.search("a red square")) == 4
    (tmp_path / "library").rename(tmp_path / "away")
    with pytest.raises(mrnn.library.LibraryGone):
        len(reader)
    (tmp_path / "away").rename(tmp_path / "library")
    assert len(reader) == 4
