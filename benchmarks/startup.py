"""`mrnn caption one.jpg`, from process start to caption, beside the import of PyTorch in the same run."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import seconds
from benchmarks.photos import made_photos

PROFILE = """
import sys, time
t = [time.perf_counter()]
import mrnn.pipeline; t.append(time.perf_counter())
pipe = mrnn.load(); t.append(time.perf_counter())
features = pipe.features([sys.argv[1]]); t.append(time.perf_counter())
pipe.caption_features(features); t.append(time.perf_counter())
names = ("import", "load model", "encode photo", "search")
print(", ".join(f"{n} {b - a:.2f}" for n, a, b in zip(names, t, t[1:])))
"""
CAPTION = """
import resource, sys
from mrnn.cli import main
main(["caption", sys.argv[1]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def python(code: str, *arguments: str) -> str:
    """What a fresh process prints."""
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print the seconds of the whole process and of its parts, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = made_photos(Path(folder), 1)
        command = [sys.executable, "-m", "mrnn", "caption", str(path)]
        whole = seconds(lambda: subprocess.run(command, check=True, capture_output=True), 5)
        torch = seconds(lambda: python("import torch"), 5)
        load = seconds(lambda: python("import mrnn; mrnn.load()"), 5)
        memory, parts = python(CAPTION, str(path)).split()[-1], python(PROFILE, str(path))
    print(
        f"startup     {whole:.2f} s from process start to caption, {whole / torch:.2f} of the import of PyTorch "
        f"({torch:.2f} s), {memory} MiB; import mrnn; mrnn.load() {load:.2f} s ({parts.strip()})",
        flush=True,
    )
