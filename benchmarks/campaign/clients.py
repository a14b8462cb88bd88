"""Odd clients and many clients of a real server. python -m benchmarks.campaign.clients [SECONDS] [SEED]"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np

from benchmarks.campaign import Report
from mrnn.demo import sample_photos

SHARE = 0.15  # of a campaign's time
SLOW = 10.0  # seconds of a processor for an answer
HANGS = 60.0  # seconds of the clock: a machine may be busy
MEMORY = 600  # MiB of the server
THREADS = 2
CAPTIONERS, EXPLAINERS, RANKERS, IDLE = 32, 16, 16, 200
PATHS = ("/", "/app.js", "/v1/health", "/v1/index", "/v1/search", "/v1/caption", "/v1/rank", "/v1/explain", "/metrics")
POSTS = ("caption", "rank", "explain", "search")
FIELDS = ("n", "sample", "temperature", "seed", "sentences", "sentence", "q", "top", "all", "image", "like", "x")
QUERY = ("q", "like", "top", "after", "before", "caption", "all", "x")
TEXTS = (
    *(
        "",
        " ",
        "a dog",
        "a" * 500,
        "a " * 250,
        "a " * 5000,
        "강아지",
        "🐶" * 50,
        "\x00",
        "a\x00b",
        "'; DROP TABLE files --",
    ),
    *(
        "%",
        "%s%n",
        "../../etc/passwd",
        "..%2f",
        "<script>",
        "\ud7ff\ufffd\uffff",
        "\u202e\u0301" * 40,
        "a\r\nb",
        "\u2028",
    ),
    *("-1", "0", "1", "3", "1e9", "9" * 40, "-" + "9" * 400, "1.5", "nan", "inf", "-inf", "0x10", "1_000", "٣", "true"),
    *("True", "null", "None", "[]", "{}", "2020-01-01", "0000-00-00", "9999-12-31", "2020-13-45", "-1-1-1", "f" * 64),
    *("A" * 64, "0" * 64, "0" * 63, "0" * 65, "' OR 1=1 --", "\\", '"', "a.b.c", "<end>", "...", "\u00a0", "\t"),
)
HOSTS = (
    *(
        "",
        " ",
        "localhost:",
        "localhost:0",
        "localhost:99999",
        "localhost:8 0",
        "localhost.",
        ".localhost",
        "a..b",
        "[::1",
    ),
    *(
        "user@localhost",
        "localhost@evil",
        "localhost/evil",
        "localhost#",
        "localhost?",
        "localhost\\evil",
        "::1",
        "[::1]]",
    ),
    *(
        "[::1%lo]",
        "evil.example",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "localhost.evil.example",
        "127.0.0.1.evil",
        "[::2]",
    ),
    *(
        "localhost,evil",
        "localhost;",
        "http://localhost",
        "localhost:80:80",
        "localhost:-1",
        "l\u043ecalhost",
        "*",
        "0.0.0.0",
    ),
)
ORIGINS = (
    "null",
    "http://evil.example",
    "https://localhost:1",
    "http://localhost",
    "file://",
    "",
    " ",
    "http://[::1]",
    "x",
)
LENGTHS = ("", "-1", "+5", "5.0", "0x5", "abc", "9" * 12, "9" * 18, "9" * 30, "5, 6", "5;", "\u0665", "1e3")


class Served:
    """A server over a few photos.

    Args:
        folder: For its library.
        options: Of `mrnn serve`.
    """

    def __init__(self, folder: Path, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        mrnn, library = [sys.executable, "-m", "mrnn"], ["--library", str(folder / "library")]
        photos = folder / "photos"
        photos.mkdir()
        for photo in sample_photos():
            (photos / photo.name).write_bytes(photo.read_bytes())
        subprocess.run([*mrnn, "index", str(photos), *library], check=True, capture_output=True)
        self.errors = (folder / "errors.txt").open("w+b")
        command = [*mrnn, "serve", "--port", str(self.port), *library, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors)
        self.address = f"http://127.0.0.1:{self.port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                self.photos = httpx.get(f"{self.address}/v1/search").json()["photos"]
                return
            assert self.process.poll() is None, "the server does not start"
            time.sleep(0.2)

    def ask(self, request: bytes, whole: bool) -> tuple[int, bytes, float]:
        """Status (0 if there is no answer), body, and seconds of a processor that the server has used meanwhile."""
        used, got = self.processor(), b""
        with socket.socket() as connection, contextlib.suppress(OSError):
            connection.settimeout(HANGS)
            connection.connect(("127.0.0.1", self.port))
            with contextlib.suppress(ConnectionError):  # refused early; the answer may be there all the same
                connection.sendall(request)
                if not whole:
                    connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                got += more
                head, end, body = got.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                n = 0 if request.startswith(b"HEAD") else int(length[1]) if length else len(got)
                if end and len(body) >= n:
                    got = head + end + body[:n]
                    break
        status = re.match(rb"HTTP/1\.1 (\d{3})", got)
        return int(status[1]) if status else 0, got.partition(b"\r\n\r\n")[2], self.processor() - used

    def processor(self) -> float:
        """Seconds of a processor that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """MiB that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def said(self) -> str:
        """What it has written to its standard error since it was asked."""
        return self.errors.read().decode(errors="replace")

    def stop(self) -> float:
        """End it; the seconds that it took."""
        clock = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return time.perf_counter() - clock


@contextlib.contextmanager
def served(*options: str) -> Generator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        server = Served(Path(folder), *options)
        try:
            yield server
        finally:
            server.stop()


def multipart(random: random.Random, photo: bytes, verb: str) -> tuple[bytes, bytes]:
    """A form with a photo and odd fields, and its type."""
    boundary = random.choice([b"xx", b"x" * 70, b"x'()+_,-./:=?"])
    parts = []
    name = random.choice(["image"] * 6 + ["sentences", "n", "", 'a"b', "강"])
    filename = random.choice(["a.jpg", "", "../../x", "강.jpg", "a" * 300, 'a"b\\'])
    kind = random.choice(["image/jpeg", "text/plain", "x", "multipart/mixed; boundary=y"])
    parts.append(
        f'form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {kind}'.encode() + b"\r\n\r\n" + photo
    )
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        text = random.choice(TEXTS)
        if random.random() < 0.2:
            text = "\n".join(random.choice(TEXTS) for _ in range(random.choice([2, 20, 1100])))
        parts.append(
            f'form-data; name="{random.choice(FIELDS)}"'.encode() + b"\r\n\r\n" + text.encode(errors="replace")
        )
    if random.random() < 0.02:
        parts += [b'form-data; name="n"\r\n\r\n1'] * 1100
    random.shuffle(parts)
    body = b"".join(b"--" + boundary + b"\r\nContent-Disposition: " + part + b"\r\n" for part in parts)
    body += random.choice([b"--" + boundary + b"--\r\n"] * 8 + [b"", b"--" + boundary])
    return body, b"multipart/form-data; boundary=" + random.choice([boundary] * 10 + [b"other", b"", b'"'])


def damaged(random: random.Random, photo: bytes) -> bytes:
    """A photo, or what is left of it."""
    kind = random.randrange(6)
    if kind == 0:
        return photo[: random.randrange(len(photo))]
    if kind == 1:
        spoilt = bytearray(photo)
        for _ in range(random.choice([1, 10, 1000])):
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        return bytes(spoilt)
    if kind == 2:
        return random.randbytes(random.choice([0, 1, 100, 100_000]))
    return photo


def odd(random: random.Random, port: int, photo: bytes, ids: list[str]) -> tuple[str, bytes, set[int], bool]:
    """An odd request: its kind, its bytes, which answers are right, and whether it is whole."""
    anything = {200, *range(400, 500), 503}
    kind = random.choice(["framing", "host", "origin", "id", "query", "form", "form", "json", "line", "cut", "right"])
    host = f"localhost:{port}"
    head, body, right, path, method = [], b"", anything, random.choice(PATHS), "GET"
    if kind == "framing":
        method, path, right = "POST", f"/v1/{random.choice(POSTS)}", {400, 411, 413, 501}
        lengths = random.choice([[], [random.choice(LENGTHS)], ["5", "6"], ["100"]])
        head += [f"Content-Length: {length}" for length in lengths]
        if lengths in ([], ["100"]) and random.random() < 0.9:
            coding = random.choice(["chunked", "Chunked", "gzip, chunked", "identity", " chunked", "chunked, chunked"])
            head.append(f"Transfer-Encoding: {coding}")
            body = random.choice(
                [b"5\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"5;x=y\r\nhello\r\n0\r\n\r\n"]
            )
        elif lengths == ["100"]:
            body, right = b"x" * 100, anything
    elif kind == "host":
        host, right = random.choice(HOSTS), {400, 421}
        if random.random() < 0.1:
            head, host = ["Host: localhost"], "localhost"
    elif kind == "origin":
        path, right = random.choice(PATHS[2:]), {403}
        if path in ("/v1/caption", "/v1/rank", "/v1/explain"):
            method, body = "POST", b"x"
        head.append(
            random.choice(
                [f"Origin: {o}" for o in ORIGINS] + [f"Sec-Fetch-Site: {s}" for s in ("cross-site", "same-site")]
            )
        )
    elif kind == "id":
        id = random.choice([*TEXTS, *ids])
        path = f"/v1/{random.choice(['thumbnail', 'photo'])}/{quote(id, errors='replace')}"
    elif kind == "query":
        some = [f"{random.choice(QUERY)}={quote(random.choice(TEXTS)[:3000], errors='replace')}" for _ in range(3)]
        path = "/v1/search?" + "&".join(
            [*some, *random.choice([[], ["%ff%fe"], ["&&&="], ["q=%"], ["like=" + ids[0]]])]
        )
    elif kind == "form":
        verb, method = random.choice(POSTS), "POST"
        path, (body, form) = f"/v1/{verb}", multipart(random, damaged(random, photo), verb)
        head.append("Content-Type: " + form.decode())
    elif kind == "json":
        method, path = random.choice(["POST", "PUT", "PATCH", "DELETE"]), random.choice(PATHS)
        value = random.choice([{"image": "x"}, [], None, 1e308, random.choice(TEXTS), [[[[]]]] * 1000, {"n": 10**400}])
        body = random.choice([json.dumps(value).encode(errors="replace"), b"[" * 100_000, b'{"a":', b"NaN"])
        coding = random.choice(["", "", "; charset=utf-16", "; charset=nothing"])
        head.append(
            "Content-Type: " + random.choice(["application/json", "application/x-www-form-urlencoded"]) + coding
        )
    elif kind == "line":
        method = random.choice(["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "GE T", "\x00", "A" * 5000])
        path = random.choice(
            [path, "*", "//", "/v1//search", "/v1/search/", "/%00", "/" + "a" * 9000, "http://evil/", "x", ""]
        )
        head += random.choice(
            [[], ["X: " + "a" * 20_000], ["a b: c"], [": x"], ["X"], ["Expect: 100-continue"], ["X: \x00"]]
        )
        head += [f"X{i}: y" for i in range(random.choice([0, 0, 500]))]
    elif kind == "right":
        right = {200}
        path = random.choice(
            ["/", "/v1/health", "/v1/index", "/v1/search?q=a%20dog", f"/v1/thumbnail/{ids[0]}", "/metrics"]
        )
        head += random.choice([[], [f"Origin: http://localhost:{port}"], ["Sec-Fetch-Site: same-origin"]])
    if body and not any(h.startswith(("Content-L", "Transfer")) for h in head):
        head.append(f"Content-Length: {len(body)}")
    version = random.choice(["1.0", "2.0", "1.9", "x"]) if kind == "line" and random.random() < 0.3 else "1.1"
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", *head, "", ""]
    request = "\r\n".join(lines).encode(errors="replace") + body
    if kind == "cut":
        request = request[: random.randrange(len(request))] + random.choice([b"", b"\r\n\r\n", b"\x00", b"\n\n"])
    return kind, request, right, kind != "cut"


def wrong(status: int, body: bytes, took: float, right: set[int], whole: bool, head: bool) -> str:
    """What is wrong with an answer; nothing, mostly."""
    if took > SLOW:
        return f"{took:.0f} s of a processor for {status}"
    if status == 0:
        return "no answer" if whole else ""
    if whole and status not in right and status != 503:
        return f"status {status}"
    if status >= 400 and not head:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return "" if json.loads(body)["detail"] else "no reason is given"
        return f"status {status} is no JSON: {body[:80]!r}"
    return "" if status < 500 or status == 503 else f"status {status}"


def attack(server: Served, seconds: float, seed: int, escapes: list[str]) -> Counter[str]:
    """Send odd requests by several threads."""
    photos = [photo.read_bytes() for photo in sample_photos()]
    ids = [photo["id"] for photo in server.photos]
    end, counts, lock = time.monotonic() + seconds, Counter(), threading.Lock()

    def client(number: int) -> None:
        i = number
        while time.monotonic() < end and server.process.poll() is None:
            chance = random.Random(f"{seed} {i}")
            kind, request, right, whole = odd(chance, server.port, chance.choice(photos), ids)
            status, body, took = server.ask(request, whole)
            problem = wrong(status, body, took, right, whole, request.startswith(b"HEAD"))
            if not problem and server.memory() > MEMORY:
                problem = f"{server.memory()} MiB"
            with lock:
                counts[f"{kind} {status}"] += 1
                if problem:
                    escapes.append(f"seed {seed} number {i}, {kind}: {problem}; {request[:200]!r}")
            i += THREADS

    threads = [threading.Thread(target=client, args=[number]) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if server.process.poll() is not None:
        escapes.append(f"the server ended with {server.process.returncode}")
    if "Traceback" in (said := server.said()):
        escapes.append(f"a traceback: {said[-1500:]}")
    return counts


async def crowd(server: Served, seconds: float, others: bool) -> tuple[list[float], Counter[str]]:
    """Seconds of captions, and answers of all, while many ask at once and many more are silent."""
    photos = [photo.read_bytes() for photo in sample_photos()]
    took, answers = [], Counter()

    async def client(verb: str, number: int) -> None:
        data = {
            "sentences": "\n".join(f"a {a} {b}" for a in ["red", "wet", "old"] for b in ["dog", "cat", "boat", "man"])
        }
        async with httpx.AsyncClient(timeout=600, base_url=server.address) as session:
            while True:
                clock, files = time.perf_counter(), {"image": photos[number % len(photos)]}
                try:
                    answer = await session.post(f"/v1/{verb}", files=files, data=data if verb == "rank" else {})
                    answers[f"{verb} {answer.status_code}"] += 1
                except httpx.TransportError as error:
                    answers[f"{verb} {type(error).__name__}"] += 1
                if verb == "caption":
                    took.append(time.perf_counter() - clock)
                number += 1

    async def silent() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                await reader.read()
                writer.close()

    numbers = {"caption": CAPTIONERS, **({"explain": EXPLAINERS, "rank": RANKERS} if others else {})}
    tasks = [asyncio.create_task(client(verb, i)) for verb, n in numbers.items() for i in range(n)]
    tasks += [asyncio.create_task(silent()) for _ in range(IDLE)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took, answers


def load(server: Served, seconds: float, escapes: list[str]) -> int:
    """Captions beside others' explanations and rankings, and without them; how many were answered."""
    tried = 0
    asyncio.run(crowd(server, 5, False))
    p99 = {}
    for others in (False, True):
        took, answers = asyncio.run(crowd(server, seconds, others))
        p99[others] = float(np.percentile(took, 99)) if took else float("inf")
        tried += sum(answers.values())
        escapes += [
            f"under load: {what}, {n} times"
            for what, n in answers.items()
            if what.split()[1] not in ("200", "413", "422")
        ]
        beside = "beside explanations and rankings" if others else "alone"
        print(f"clients     captions {beside}: p99 {p99[others]:.2f} s, answers {dict(answers)}, {server.memory()} MiB")
    if p99[True] > 3 * p99[False]:
        escapes.append(f"captions' p99 is {p99[True]:.2f} s beside others and {p99[False]:.2f} s alone")
    return tried


def stop_when_full(server: Served, escapes: list[str]) -> None:
    """End the server while its line is full."""

    async def fill() -> float:
        photo = sample_photos()[0].read_bytes()
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as session:
            asked = [
                asyncio.create_task(session.post(f"{server.address}/v1/explain", files={"image": photo}))
                for _ in range(100)
            ]
            await asyncio.sleep(5)
            took = await asyncio.to_thread(server.stop)
            answers = await asyncio.gather(*asked, return_exceptions=True)
        kinds = Counter(a.status_code if isinstance(a, httpx.Response) else type(a).__name__ for a in answers)
        print(f"clients     stopped in {took:.1f} s with 100 explanations in line; answers {dict(kinds)}")
        return took

    if (took := asyncio.run(fill())) > 30:
        escapes.append(f"a stop took {took:.0f} s")
    if "Traceback" in (said := server.said()):
        escapes.append(f"a traceback at the stop: {said[-1500:]}")


def run(seconds: float, seed: int) -> Report:
    """Attack a server for some seconds, of which those under load are at most 125."""
    escapes, loaded = [], min(60, seconds / 4)
    with served() as server:
        counts = attack(server, seconds - 2 * loaded - 5, seed, escapes)
        print(f"clients     {dict(sorted(counts.items()))}, {server.memory()} MiB", flush=True)
        tried = sum(counts.values()) + load(server, loaded, escapes) + 1
        stop_when_full(server, escapes)
    return Report("clients", tried, escapes)


if __name__ == "__main__":
    found = run(float(sys.argv[1]) if sys.argv[1:] else 120, int(sys.argv[2]) if sys.argv[2:] else 0)
    print(f"{found.name}: {found.tried:,} tried, {len(found.escapes)} escapes")
    print("\n".join(found.escapes[:50]))
