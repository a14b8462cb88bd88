"""Damaged and hostile inputs, kills and odd clients: what gets through, and how to have it again.

    python -m benchmarks.campaign [--minutes N] [--seed S] [--part NAME]

A part is a module here with `run(seconds, seed) -> Report`, and with `SHARE`, its share of the time. Inputs are made
from the seed and their number alone.
An escape is: an error that is not one of ours, a process that ends, more than 600 MB of memory, more than ten seconds.
"""

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

MEMORY = 600_000_000  # bytes of the whole process
SECONDS = 10.0  # of a processor, for one input
HANGS = 300.0  # seconds of the clock: a machine may be busy, or stopped for a while


@dataclass(frozen=True)
class Report:
    """What came of a part.

    Args:
        name: Of the part.
        tried: Inputs.
        escapes: What got through, a line each, with the place of the input.
    """

    name: str
    tried: int
    escapes: list[str] = field(default_factory=list)


def hunt(part: str, seconds: float, seed: int) -> Report:
    """Try a part's inputs in watched processes, as many as there are cores.

    The part's module has `make(seed, number, folder)`, which writes an input into a folder and gives its path, and
    `check(path)`, which raises or gives a reason where it escapes. Both run many times in one process.
    """
    cores = len(os.sched_getaffinity(0))
    kept = Path(tempfile.mkdtemp(prefix=f"mrnn-campaign-{part}-"))
    with tempfile.TemporaryDirectory(dir=_in_memory(), ignore_cleanup_errors=True) as place:
        workers = [_Worker(part, seed, first, cores, Path(place), kept) for first in range(cores)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.05)
            for worker in workers:
                worker.watch()
        for worker in workers:
            worker.end()
    with contextlib.suppress(OSError):
        kept.rmdir()  # nothing escaped
    return Report(part, sum(w.tried for w in workers), [line for w in workers for line in w.escapes])


def first_line(error: BaseException) -> str:
    """An error's kind and what it says first."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


class _Worker:
    """A process that tries every so many-th input, started again where it ends."""

    def __init__(self, part: str, seed: int, first: int, step: int, place: Path, kept: Path):
        self.part, self.seed, self.step, self.kept = part, seed, step, kept
        self.folder = place / str(first)
        self.tried, self.escapes = 0, []
        self._start(first)

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.told, theirs = context.Pipe(duplex=False)
        args = (self.part, self.seed, number, self.step, self.folder, theirs)
        self.process: BaseProcess = context.Process(target=_try_inputs, args=args, daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.checking = number, False
        self.since, self.used = time.monotonic(), 0.0

    def watch(self) -> None:
        """Take in what it tells, and end it if it takes too much."""
        self._listen()
        reason = ""
        if not self.process.is_alive():
            self._listen()
            if not self.checking:
                said = _log_of(self.folder).read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"{self.part} cannot make its input {self.number}:\n{said}")
            reason = f"the process ended with {self.process.exitcode}"
        elif self.checking:
            with contextlib.suppress(OSError):
                if (memory := _resident(self.process.pid)) > MEMORY:
                    reason = f"{memory / 1e6:,.0f} MB"
                elif (spent := _processor(self.process.pid) - self.used) > SECONDS:
                    reason = f"more than {spent:.0f} s"
                elif time.monotonic() - self.since > HANGS:
                    reason = f"hangs for {HANGS:.0f} s"
        if reason:
            self.end()
            self.tried += 1
            self._escaped(reason)
            self._start(self.number + self.step)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self.told.poll():
                what, value = self.told.recv()
                if what == "makes":
                    self.number, self.checking = value, False
                elif what == "checks":
                    self.checking, self.since, self.used = True, time.monotonic(), value
                elif what == "done":
                    self.tried, self.checking = self.tried + 1, False
                elif what == "escaped":
                    self._escaped(value)
                    self.told_of = self.number

    def _escaped(self, reason: str) -> None:
        there = self.kept / f"{self.part}-{self.seed}-{self.number}"
        if self.folder.is_dir():
            shutil.copytree(self.folder, there, dirs_exist_ok=True, symlinks=True)
        self.escapes.append(f"{self.part} {self.number} of seed {self.seed}: {reason}; kept in {there}")

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def _try_inputs(part: str, seed: int, first: int, step: int, folder: Path, tell: Connection) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder.parent)  # which is removed in the end
    with _log_of(folder).open("wb") as log:
        os.dup2(log.fileno(), 2)  # what C libraries say of damaged files
    module: Any = import_module(f"benchmarks.campaign.{part}")
    number = first
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tell.send(("makes", number))
        path = module.make(seed, number, folder)
        _forget_peak()
        started = time.process_time()
        tell.send(("checks", started))
        try:
            reason = module.check(path)
        except BaseException as error:  # panics of Rust are no Exceptions
            reason = first_line(error)
        spent, peak = time.process_time() - started, _peak()
        if not reason and peak > MEMORY:
            reason = f"{peak / 1e6:,.0f} MB"
        if not reason and spent > SECONDS:
            reason = f"{spent:.0f} s"
        if reason:
            _keep(tell, reason)
        tell.send(("done", number))
        number += step


def _log_of(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _keep(tell: Connection, reason: str) -> None:
    """Tell of an escape, and wait until its input is copied."""
    tell.send(("escaped", reason))
    time.sleep(0.2)


def _status(pid: int | str | None, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _resident(pid: int | None) -> int:
    return _status(pid, "VmRSS")


def _peak() -> int:
    return _status("self", "VmHWM")


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _processor(pid: int | None) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _in_memory() -> str | None:
    """A folder that is no disk, if there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def parts() -> Iterator[str]:
    """The modules here that have a `run`."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith("_") and "\ndef run(" in path.read_text(encoding="utf-8"):
            yield path.stem
