"""One piece of work on many items, by threads that run a little ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

_most: int | None = None


def cores() -> int:
    """Processor cores that this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return there if _most is None else min(_most, there)


def limit_cores(most: int) -> None:
    """Use no more cores from now on, as one of many processes on a machine."""
    global _most
    _most = most


def each(items: Iterable, work: Callable, threads: int) -> Iterator:
    """`map` over a pool that never runs more than a few batches ahead and stops at once when closed.

    Args:
        items: What to work on.
        work: What to do with each.
        threads: Of the pool.
    """
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
