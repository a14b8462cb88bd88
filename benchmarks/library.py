"""The photo library: indexing 12-megapixel photos, a second run over 10,000 unchanged ones, a search among 100,000."""

import io
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from mrnn.demo import sample_photos
from mrnn.library import Library, photo_files
from mrnn.pipeline import load

LARGE = 120
UNCHANGED = 10_000
SEARCHED = 100_000


def large_photos(folder: Path) -> None:
    """Different 12-megapixel JPEGs, of the samples scaled up with some grain."""
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 12, (3000, 4000, 3), np.uint8)
    kinds = []
    for photo in sample_photos():
        pixels = np.asarray(Image.open(photo).convert("RGB").resize((4000, 3000)))
        out = io.BytesIO()
        Image.fromarray(np.clip(pixels.astype(np.int16) + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
        kinds.append(out.getvalue())
    for i in range(LARGE):
        # Bytes after the end of a JPEG change its hash, not its picture.
        (folder / f"{i}.jpg").write_bytes(kinds[i % len(kinds)] + str(i).encode())


def draft_milliseconds(folder: Path) -> float:
    """One core decoding one such photo, reduced, and nothing else."""
    photos = sorted(folder.iterdir())[:20]
    clock = time.perf_counter()
    for photo in photos:
        image = Image.open(photo)
        image.draft("RGB", (260, 260))
        image.load()
    return 1000 * (time.perf_counter() - clock) / len(photos)


def fill(library: Library, paths: list[tuple[str, int, int]]) -> None:
    """Rows with the vectors of real photos and a little noise, as if these had been indexed."""
    rng = np.random.default_rng(0)
    real = library.pipeline.references
    for start in range(0, len(paths), 10_000):
        rows = []
        for path, size, modified in paths[start : start + 10_000]:
            noise = rng.standard_normal(real.shape[1]).astype(np.float32)
            rows.append(
                {
                    "path": path,
                    "size": size,
                    "time": modified,
                    "hash": path,
                    "taken": "2020-01-01T00:00:00",
                    "orientation": 1,
                    "width": 4000,
                    "height": 3000,
                    "thumbnail": b"",
                    "features": np.zeros(math.prod(library.pipeline.model.feature_shape), np.float16),
                    "image": real[rng.integers(len(real))] + 0.05 * noise,
                    "captions": ["a photo"],
                    "likelihoods": [-1.0],
                    "error": "",
                }
            )
        library.table.add(pa.Table.from_pylist(rows, schema=library.schema))


def main() -> None:
    """Time all three."""
    pipe = load()
    pipe.encoder  # noqa: B018, loaded before the clock runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        folder.mkdir()
        large_photos(folder)
        library = Library(Path(place) / "one", pipe)
        clock = time.perf_counter()
        assert library.index(folder).added == LARGE
        seconds = time.perf_counter() - clock
        draft = draft_milliseconds(folder)
        rate = LARGE / seconds
        print(
            f"library     {rate:.1f} 12-megapixel photos/s; a reduced decode alone {draft:.0f} ms of one core",
            flush=True,
        )

        folder = Path(place) / "many"
        folder.mkdir()
        (folder / "0.jpg").write_bytes(sample_photos()[0].read_bytes())
        for i in range(1, UNCHANGED):
            os.link(folder / "0.jpg", folder / f"{i}.jpg")
        library = Library(Path(place) / "two", pipe)
        fill(library, [(path, status.st_size, status.st_mtime_ns) for path, status in photo_files(folder, [])])
        clock = time.perf_counter()
        assert library.index(folder).unchanged == UNCHANGED
        print(f"            second run over {UNCHANGED:,} unchanged photos {time.perf_counter() - clock:.2f} s")

        library = Library(Path(place) / "three", pipe)
        fill(library, [(f"/photos/{i}.jpg", 0, 0) for i in range(SEARCHED)])
        clock = time.perf_counter()
        library.load()
        loading = time.perf_counter() - clock
        times = []
        for sentence in ("a dog in the snow", "two men play football", "a child in a red coat", "a car on a street"):
            clock = time.perf_counter()
            library.search(sentence)
            times.append(1000 * (time.perf_counter() - clock))
        print(
            f"            search among {SEARCHED:,} photos {max(times[1:]):.0f} ms, loaded in {loading:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
