"""One piece of work on many items, by threads or by worker processes."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def each(items: list, work: Callable, threads: int, workers: int = 0) -> Iterator:
    """`map` over a pool that never runs more than a few batches ahead and stops at once when closed.

    Args:
        items: What to work on.
        work: What to do with each; for worker processes a function that can be pickled.
        threads: Of the pool.
        workers: Processes in the place of threads.

    Raises:
        ValueError: A worker process died.
    """
    # A process that runs threads cannot be forked safely.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _end_with_parent) if workers else ThreadPoolExecutor(threads)
    with pool:
        ahead: deque = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 4 * (workers or threads):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool:
            raise ValueError("a worker process died at its work; without workers it is done in threads") from None


def _end_with_parent() -> None:
    """Let a worker process end when the process it works for was killed; it would wait for work for ever."""

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
