"""A library indexed by Ray's workers, one a core, beside one process: `python -m benchmarks.cluster [PHOTOS]`.

Ray's own start is told apart: it is paid once, however many photos there are.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mrnn.demo import sample_photos
from mrnn.library import Library
from mrnn.pipeline import load
from mrnn.threads import cores

PHOTOS = 1500


def different_photos(folder: Path, n: int) -> None:
    """Photos of 1,000 x 750 pixels: pieces of the samples, no two of the same content."""
    rng = np.random.default_rng(0)
    samples = [Image.open(path).convert("RGB") for path in sample_photos()]
    for i in range(n):
        whole = samples[i % len(samples)]
        share = rng.uniform(0.6, 1)
        w, h = (int(share * side) for side in whole.size)
        left, top = rng.integers(whole.width - w + 1), rng.integers(whole.height - h + 1)
        out = io.BytesIO()
        whole.crop((left, top, left + w, top + h)).resize((1000, 750)).save(out, "JPEG", quality=88)
        # Bytes after the end of a JPEG change its hash, not its picture.
        (folder / f"{i}.jpg").write_bytes(out.getvalue() + str(i).encode())


def rows(library: Library) -> list[tuple]:
    """What a library holds, in an order of its own."""
    found = library.tables.read("contents", ["hash", "taken", "image", "captions"]).to_pylist()
    return sorted((row["hash"], row["taken"], row["image"], row["captions"]) for row in found)


def indexed(place: Path, folder: Path, ray: str | None) -> tuple[Library, float, float]:
    """A library, its photos a second between the first batch and the last, and the seconds to the first."""
    library = Library(place, load())
    stamps: list[tuple[float, int]] = []
    clock = time.perf_counter()
    report = library.index(folder, lambda done, total: stamps.append((time.perf_counter() - clock, done)), ray=ray)
    assert not report.errors
    (start, first), (end, last) = next(stamp for stamp in stamps if stamp[1]), stamps[-1]
    return library, (last - first) / (end - start), start


def main(photos: int = PHOTOS) -> None:
    """Time both."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        different_photos(folder, photos)
        local, usual, _ = indexed(Path(place) / "local", folder, None)
        many, rate, start = indexed(Path(place) / "ray", folder, "")
        assert rows(local) == rows(many)
        print(
            f"cluster     {cores()} workers by Ray {rate:.1f} photos/s, one process {usual:.1f}: {rate / usual:.2f} x, "
            f"the same rows; {start:.0f} s to the first batch",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
