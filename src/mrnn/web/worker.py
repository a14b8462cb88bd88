"""One thread that owns the model. Requests wait in a line of limited length and are taken many at a time."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrnn.encoders import pool_features
from mrnn.pipeline import Described, Pipeline

BATCH = 32


class Busy(Exception):
    """The line is full."""


@dataclass
class _Job:
    """Work for the thread: a photo to caption with options, or any function."""

    photo: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)
    call: Callable[[], Any] | None = None
    future: asyncio.Future | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def answer(self, value: Any) -> None:
        """Give the result, or the exception, to who waits; it may have gone."""
        assert self.loop is not None

        def settle() -> None:
            if self.future is not None and not self.future.done():
                if isinstance(value, Exception):
                    self.future.set_exception(value)
                else:
                    self.future.set_result(value)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(settle)


class Worker:
    """Captions photos in batches, whoever sent them, and runs everything else that needs the model in between.

    Args:
        pipeline: The model.
        length: Jobs that may wait.
    """

    def __init__(self, pipeline: Pipeline, length: int):
        self.pipeline = pipeline
        self._line: queue.Queue[_Job | None] = queue.Queue(length)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return self._line.qsize()

    async def caption(self, photo: bytes, **options: Any) -> Described:
        """Caption a photo, together with whichever others wait.

        Raises:
            Busy: The line is full.
            ImageError: The photo cannot be used.
        """
        return await self._submit(_Job(photo=photo, options=options))

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the model's thread.

        Raises:
            Busy: The line is full.
        """
        return await self._submit(_Job(call=function))

    async def _submit(self, job: _Job) -> Any:
        job.loop = asyncio.get_running_loop()
        job.future = job.loop.create_future()
        try:
            self._line.put_nowait(job)
        except queue.Full:
            raise Busy from None
        return await job.future

    def stop(self) -> None:
        """Finish what is in line, then end the thread."""
        self._line.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._line.get()) is not None:
            jobs, last = [job], False
            while len(jobs) < BATCH and not self._line.empty():
                more = self._line.get()
                if more is None:
                    last = True
                    break
                jobs.append(more)
            self._caption([job for job in jobs if job.call is None])
            for job in jobs:
                if job.call is not None:
                    try:
                        job.answer(job.call())
                    except Exception as error:  # belongs to the request, not to the thread
                        job.answer(error)
            if last:
                return

    def _caption(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            features, positions, errors = pool_features(self.pipeline.encoder, [job.photo for job in jobs])
            for job, error in zip([j for i, j in enumerate(jobs) if i not in positions], errors, strict=True):
                job.answer(error)
            groups: dict[tuple[str, int | None], list[int]] = {}
            for row, position in enumerate(positions):
                options = jobs[position].options
                # Samples alone: a photo's seed is its own whoever else asks.
                alone = row if options.get("method") == "sample" else None
                groups.setdefault((repr(sorted(options.items())), alone), []).append(row)
            for rows in groups.values():
                members = [jobs[positions[row]] for row in rows]
                photos, config = [job.photo for job in members], self.pipeline.options(**members[0].options)
                described = self.pipeline.describe_features(photos, features[rows], config)
                for job, one in zip(members, described, strict=True):
                    job.answer(one)
        except Exception as error:  # belongs to these requests, not to the thread
            for job in jobs:
                job.answer(error)
