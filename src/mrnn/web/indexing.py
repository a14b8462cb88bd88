"""A folder that is indexed again and again while the server runs."""

import asyncio
import contextlib
import logging
from pathlib import Path

from mrnn.library import Library

_log = logging.getLogger("mrnn.web")


class _Stopped(Exception):
    """The server ends, and indexing with it."""


class _Later(Exception):
    """Another process writes the library: a server that waited for it could not be stopped."""


class Indexing:
    """Keeps the library up to date with a folder, in a thread of its own, while the server runs.

    Args:
        library: The library.
        folder: To index; None for none.
        interval: Seconds between two looks at it.
    """

    def __init__(self, library: Library | None, folder: Path | None, interval: float = 60):
        self.library, self.folder, self.interval = library, folder, interval
        self.running, self.done, self.total, self.errors = False, 0, 0, 0
        self._stopping, self._problem = asyncio.Event(), ""

    async def run(self) -> None:
        """Index the folder again and again until `stop`."""
        while self.library is not None and self.folder is not None and not self._stopping.is_set():
            self.running = True
            try:
                report = await asyncio.to_thread(self.library.index, self.folder, self._progress, waiting=self._later)
                self.errors, self._problem = len(report.errors), ""
            except _Stopped:
                return
            except _Later:
                pass
            except Exception as error:  # a disk that is away for now, say: the server goes on
                if str(error) != self._problem:  # said once, not every interval
                    _log.error("indexing %s: %s", self.folder, error)
                self._problem = str(error)
            finally:
                self.running = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.interval)

    def stop(self) -> None:
        """End `run` after the photo in hand; batches that were committed stay."""
        self._stopping.set()

    def _progress(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        self.done, self.total = done, total

    def _later(self, who: str) -> None:
        raise _Later
