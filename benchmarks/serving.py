"""The server under load: 64 clients at once for a minute. python -m benchmarks.serving [SECONDS]"""

import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from mrnn.demo import sample_photos
from mrnn.pipeline import load

CLIENTS = 64


def offline(photos: list[bytes], n: int = 256) -> float:
    """Photos a second from bytes to captions, in batches, without a server."""
    pipe = load()
    some = [photos[i % len(photos)] for i in range(n)]
    pipe.caption(some[:32], n=3, beam=5)
    clock = time.perf_counter()
    for start in range(0, n, 32):
        pipe.caption(some[start : start + 32], n=3, beam=5)
    return n / (time.perf_counter() - clock)


async def load_test(address: str, photos: list[bytes], seconds: float) -> tuple[list[float], dict[int, int]]:
    """Every client sends a photo, waits for the answer, and sends the next."""
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        async with httpx.AsyncClient(timeout=120) as session:
            i = number
            while time.perf_counter() < end:
                clock = time.perf_counter()
                answer = await session.post(f"{address}/v1/caption", files={"image": photos[i % len(photos)]})
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                latencies.append(time.perf_counter() - clock)
                i += 1

    await asyncio.gather(*(client(i) for i in range(CLIENTS)))
    return latencies, statuses


def memory(pid: int) -> int:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def main(seconds: float = 60) -> None:
    """Start a server, load it, and compare with captioning offline."""
    photos = [photo.read_bytes() for photo in sample_photos()]
    alone = offline(photos)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mrnn", "serve", "--port", str(port), "--library", "/nonexistent"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{address}/v1/health")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        asyncio.run(load_test(address, photos, 5))
        readings, latencies, statuses = [memory(server.pid)], [], Counter()
        clock = time.perf_counter()
        while time.perf_counter() - clock < seconds:
            some, answers = asyncio.run(load_test(address, photos, min(30, seconds)))
            latencies += some
            statuses += Counter(answers)
            readings.append(memory(server.pid))
        rate = statuses[200] / (time.perf_counter() - clock)
    finally:
        server.terminate()
        server.wait()
    p50, p99 = np.percentile(latencies, [50, 99])
    share = f"{100 * rate / alone:.0f} % of {alone:.1f} offline"
    print(f"serving     {rate:.1f} photos/s to {CLIENTS} clients, {share}; answers {dict(statuses)}")
    print(f"            p99 {p99:.2f} s, median {p50:.2f} s; MiB every 30 s {readings}", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
