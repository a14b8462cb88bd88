"""One thread that owns the model. Captions and searches wait in one line, long work in another, which they pass.

Long work is cut where it calls the model: between two calls the thread looks at the other line. While both lines wait,
each gets half of the time.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from mrnn.encoders import pool_features
from mrnn.files import first_line
from mrnn.images import ImageSource
from mrnn.pipeline import Described, Pipeline

BATCH = 32
# The calls of a model that take time, each of bounded length; between them captions pass.
_CALLS = ("encode_image", "encode_cells", "text", "step", "distribution", "log_p", "gradient", "pull")


class Busy(Exception):
    """The line is full."""


class _Dropped(Exception):
    """Nobody waits for the work in hand any more."""


@dataclass(eq=False)
class _Job:
    """Work for the thread: a photo to caption with options, or a function of the model."""

    future: asyncio.Future
    photo: ImageSource = b""
    options: dict[str, Any] = field(default_factory=dict)
    work: Callable[[Pipeline], Any] | None = None

    @property
    def dropped(self) -> bool:
        """Whether who asked for it has gone."""
        return self.future.cancelled()

    def answer(self, value: Any) -> None:
        """Give the result, or the exception, to who waits; it may have gone."""

        def settle() -> None:
            if self.future.done():
                return
            if isinstance(value, Exception):
                self.future.set_exception(value)
            else:
                self.future.set_result(value)

        loop = self.future.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)


class Worker:
    """Captions photos in batches, whoever sent them, and runs everything else that needs the model in between.

    What nobody waits for any more is dropped: in line, and between two slices of long work.

    Args:
        pipeline: The model.
        length: Jobs that may wait.
    """

    def __init__(self, pipeline: Pipeline, length: int):
        self.pipeline, self.length = pipeline, length
        self._short: deque[_Job] = deque()
        self._long: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._in_hand: _Job | None = None
        self._turn = 0.0  # until when long work goes on, whatever else waits
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return len(self._short) + len(self._long)

    async def caption(self, photo: ImageSource, **options: Any) -> Described:
        """Caption a photo, together with whichever others wait.

        Raises:
            Busy: The line is full.
            ImageError: The photo cannot be used.
        """
        return await self._submit(self._short, photo=photo, options=options)

    async def soon(self, work: Callable[[Pipeline], Any]) -> Any:
        """Do short work in the model's thread.

        Raises:
            Busy: The line is full.
        """
        return await self._submit(self._short, work=work)

    async def slowly(self, work: Callable[[Pipeline], Any]) -> Any:
        """Do long work in the model's thread, in slices.

        Raises:
            Busy: The line is full.
        """
        return await self._submit(self._long, work=work)

    async def _submit(self, line: deque[_Job], **job: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            if self.waiting >= self.length:
                self._forget()
            if self.waiting >= self.length:
                raise Busy
            line.append(_Job(future, **job))
            self._changed.notify()
        return await future

    def _forget(self) -> None:
        """Take out of both lines what nobody waits for."""
        for line in (self._short, self._long):
            left = [job for job in line if not job.dropped]
            line.clear()
            line.extend(left)

    def stop(self) -> None:
        """End the thread after the slice in hand; what is in line is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self.waiting)
                if self._stopping:
                    return
                passed = self._short and (not self._long or time.monotonic() >= self._turn)
                self._in_hand = None if passed else self._long.popleft()
            if self._in_hand is None:
                self._serve()
            elif not self._in_hand.dropped:
                _do(self._in_hand, self._in_slices())

    def _serve(self) -> None:
        """Do some of the short work."""
        clock = time.monotonic()
        with self._changed:
            jobs = [self._short.popleft() for _ in range(min(BATCH, len(self._short)))]
        jobs = [job for job in jobs if not job.dropped]
        self._caption([job for job in jobs if job.work is None])
        for job in jobs:
            if job.work is not None:
                _do(job, self.pipeline)
        now = time.monotonic()
        self._turn = now + (now - clock)

    def _in_slices(self) -> Pipeline:
        """The pipeline, whose model looks at the line of short work before every call."""
        pipeline, model = copy(self.pipeline), copy(self.pipeline.model)
        for name in _CALLS:
            setattr(model, name, self._after_a_pause(getattr(model, name)))
        pipeline.model = model
        return pipeline

    def _after_a_pause(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*given: Any, **options: Any) -> Any:
            if self._stopping or self._in_hand is None or self._in_hand.dropped:
                raise _Dropped
            if self._short and time.monotonic() >= self._turn:
                self._serve()
            return call(*given, **options)

        return paused

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


def _do(job: _Job, pipeline: Pipeline) -> None:
    assert job.work is not None
    try:
        job.answer(job.work(pipeline))
    except BaseException as error:  # belongs to the request, not to the thread; panics of Rust are no Exceptions
        job.answer(error if isinstance(error, Exception) else RuntimeError(first_line(error)))
