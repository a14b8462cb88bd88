"""Kills: a training run, an index, a feature cache and a save end at a drawn file operation, and are done again.

Python's own file operations are counted; what Rust writes is hit by kills at a drawn moment. Each kill is one of a
process of its own, forked from this one.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance  # noqa: F401  # once, before processes are forked
import numpy as np
import torch
from PIL import Image

from benchmarks.campaign import Report, first_line
from benchmarks.campaign.folders import FEATURES, WORDS, tiny_model
from benchmarks.campaign.mutate import drawn
from mrnn.encoders import FeatureCache
from mrnn.files import is_leftover
from mrnn.library import Library
from mrnn.models import MRNN, MRNNConfig
from mrnn.pipeline import load
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, TrainingConfig, train

SHARE = 0.2  # of a campaign's time
KILLED, FAILED = 9, 1
PATIENCE = 120  # seconds that a process may take
warnings.filterwarnings("ignore", "lance is not fork-safe")  # it is, before it was used
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(seconds: float, seed: int) -> Report:
    """Kill each kind of work in turn, all equally often."""
    torch.set_num_threads(1)
    number, escapes, deadline = 0, [], time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="mrnn-campaign-kills-", ignore_cleanup_errors=True) as place:
        works = [kind(Path(place)) for kind in (_Save, _Cache, _Index, _Training)]
        while time.monotonic() < deadline or not number:
            for work in works:
                if reason := _one(work, drawn(seed, number)):
                    escapes.append(f"kills: {work.name} {number} of seed {seed}: {reason}")
            number += 1
    print(f"kills       {number:,} each of {', '.join(work.name for work in works)}", flush=True)
    return Report("kills", number * len(works), escapes)


def _one(work: Any, draw: random.Random) -> str:
    """One kill, and what is wrong afterwards; nothing if all is well."""
    folder = work.place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    work.prepare(folder)
    moment = draw.random() * work.seconds if draw.random() < work.by_time else 0.0
    operation = 0 if moment else draw.randrange(1, work.operations + 1)
    code, _ = _apart(lambda: work.do(folder), operation, moment)
    where = f"killed after {moment:.3f} s" if moment else f"killed before file operation {operation}"
    if code == FAILED:
        return f"{where}: it failed by itself"
    code, said = _apart(lambda: work.check(folder), 0, 0.0)
    if code:
        return f"{where}: {said or f'the process ended with {code}'}"
    left = [path.name for path in folder.rglob("*") if is_leftover(path.name) or path.name in (".saving", ".saved")]
    return f"{where}: left {', '.join(left)}" if left else ""


def _apart(work: Callable[[], Any], operation: int, moment: float) -> tuple[int, str]:
    """Do some work in a process, killed before an operation or after a moment; its exit code, and what it says."""
    reads, writes = os.pipe()
    process = os.fork()
    if not process:
        code, said = 0, ""
        try:
            counted = _count(operation)
            said = str(work() or "")
            said, code = (said, FAILED) if said else (str(counted[0]), 0)
        except BaseException as error:
            traceback.print_exc()
            said, code = first_line(error), FAILED
        finally:
            os.write(writes, said.encode(errors="replace")[:4000])
            os._exit(code)
    os.close(writes)
    deadline = time.monotonic() + (moment or PATIENCE)
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(status), said


def _count(last: int) -> list[int]:
    """Count file operations from here on, and end the process before one of them."""
    counted = [0]

    def hook(event: str, args: tuple) -> None:
        opens = event == "open" and isinstance(args[0], str | bytes) and bool((args[2] or 0) & _WRITES)
        if opens or event in _CHANGES:
            counted[0] += 1
            if counted[0] == last:
                os._exit(KILLED)

    sys.addaudithook(hook)
    return counted


class _Work:
    """What is killed: `prepare` makes a folder, `do` works in it, `check` does it again and says what is wrong."""

    by_time = 0.0

    def __init__(self, place: Path):
        self.name = type(self).__name__.strip("_").lower()
        self.place = place / self.name
        self.place.mkdir()
        self.made()
        folder = self.place / "work"
        self.prepare(folder)
        clock = time.monotonic()
        code, said = _apart(lambda: self.do(folder), 0, 0.0)
        if code:
            raise RuntimeError(f"{self.name} cannot be done: {said}")
        self.seconds, self.operations = time.monotonic() - clock, int(said)

    def made(self) -> None:
        """What all kills share."""

    def prepare(self, folder: Path) -> None:
        folder.mkdir()

    def do(self, folder: Path) -> None:
        raise NotImplementedError

    def check(self, folder: Path) -> str:
        raise NotImplementedError


class _Save(_Work):
    """A model saved over another: one of the two is there, whole, and can be saved over again."""

    def made(self) -> None:
        self.old, self.new = tiny_model(0, WORDS), tiny_model(1, [*WORDS, "cat"])
        for pipeline, name in ((self.old, "old"), (self.new, "new")):
            pipeline.save(self.place / name)
        self.marks = {load(self.place / name, "onnx").fingerprint for name in ("old", "new")}
        self.wanted = load(self.place / "new", "onnx").fingerprint

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.place / "old", folder)

    def do(self, folder: Path) -> None:
        self.new.save(folder)

    def check(self, folder: Path) -> str:
        found = load(folder, "onnx")
        found.caption_features(np.ones((1, FEATURES), np.float32))
        if found.fingerprint not in self.marks:
            return "another model than both"
        self.do(folder)
        again = sorted(path.name for path in folder.iterdir())
        if load(folder, "onnx").fingerprint != self.wanted:
            return "saved again, it is not the new model"
        return "" if again == sorted(path.name for path in (self.place / "new").iterdir()) else f"there are {again}"


def _photos(folder: Path, n: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


class _Cache(_Work):
    """Features of photos: those that a cache gives are those that the encoder gives."""

    def made(self) -> None:
        self.photos = _photos(self.place / "photos", 70)
        self.encoder = tiny_model(0, WORDS).encoder
        self.features = FeatureCache(self.encoder, self.place / "plain").features(self.photos, threads=1)[0]

    def do(self, folder: Path) -> None:
        FeatureCache(self.encoder, folder).features(self.photos, threads=1)

    def check(self, folder: Path) -> str:
        for _ in range(2):
            found, usable, errors = FeatureCache(self.encoder, folder).features(self.photos, threads=1)
            if errors or len(usable) != len(self.photos) or not (found == self.features).all():
                return "other features than the encoder's"
        return ""


class _Index(_Work):
    """Photos indexed: after the next run every photo has one row, and every file too."""

    by_time = 0.7

    def made(self) -> None:
        self.photos = _photos(self.place / "photos", 12)
        tiny_model(0, WORDS).save(self.place / "model")

    def prepare(self, folder: Path) -> None:
        """The library makes its folder itself."""

    def do(self, folder: Path) -> None:
        from mrnn.library import reading

        vars(reading)["BATCH"] = 4  # several commits
        Library(folder, load(self.place / "model", "onnx")).index(self.photos[0].parent, threads=1)

    def check(self, folder: Path) -> str:
        self.do(folder)
        library = Library(folder, load(self.place / "model", "onnx"))
        report = library.index(self.photos[0].parent, threads=1)
        rows = library.tables.read("files", ["path", "hash"]).to_pylist()
        hashes = library.tables.read("contents", ["hash"])["hash"].to_pylist()
        if report.unchanged != len(self.photos) or report.errors:
            return f"a further run finds work: {report}"
        if sorted(row["path"] for row in rows) != [str(path) for path in self.photos]:
            return f"{len(rows)} rows of files"
        return "" if sorted(hashes) == sorted(row["hash"] for row in rows) else f"{len(hashes)} rows of photos"


class _Training(_Work):
    """A training run: gone on with, it ends with the same bits."""

    def made(self) -> None:
        train(*self.arguments(), self.place / "whole")
        self.wanted = self.bits(self.place / "whole")

    def arguments(self) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        vocabulary = Vocabulary([*SIGNS, *(f"w{i}" for i in range(20))])
        torch.manual_seed(0)
        sizes = MRNNConfig(embedding=6, word=8, recurrent=8, multimodal=10, dropout_multimodal=0.3, dropout_image=0.3)
        data = []
        for n in (64, 16):
            features = torch.randn(n, 7, generator=generator)
            data.append(CaptionData([[3 + i % 5, 8 + i % 12] for i in range(n)], list(range(n)), features))
        config = TrainingConfig(epochs=4, batch=8, precision="float32", learning_rate=1e-2)
        return MRNN(sizes, len(vocabulary), 7), vocabulary, *data, config

    @staticmethod
    def bits(folder: Path) -> str:
        return hashlib.sha256((folder / "checkpoint.safetensors").read_bytes()).hexdigest()

    def do(self, folder: Path) -> None:
        train(*self.arguments(), folder)

    def check(self, folder: Path) -> str:
        self.do(folder)
        return "" if self.bits(folder) == self.wanted else "other bits than the run that was not killed"
