"""`mrnn caption one.jpg`, from process start to caption, and where the time goes."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import seconds
from benchmarks.photos import made_photos

PROFILE = """
import sys, time
t = [time.perf_counter()]
import torch; t.append(time.perf_counter())
import mrnn; pipe = mrnn.load(); t.append(time.perf_counter())
pipe.encoder; t.append(time.perf_counter())
features = pipe.features([sys.argv[1]]); t.append(time.perf_counter())
pipe.caption_features(features); t.append(time.perf_counter())
names = ("import torch", "load model", "load encoder", "encode photo", "search")
print(", ".join(f"{n} {b - a:.2f}" for n, a, b in zip(names, t, t[1:])))
"""


def main() -> None:
    """Print the seconds of the whole process and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = made_photos(Path(folder), 1)
        command = [sys.executable, "-m", "mrnn", "caption", str(path)]
        whole = seconds(lambda: subprocess.run(command, check=True, capture_output=True), 3)
        parts = subprocess.run([sys.executable, "-c", PROFILE, str(path)], check=True, capture_output=True, text=True)
    print(f"startup     {whole:.2f} s from process start to caption ({parts.stdout.strip()})", flush=True)
