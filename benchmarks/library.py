"""The photo library: indexing 12-megapixel photos, a second run over unchanged ones, and searches of made libraries.

`python -m benchmarks.library --photos N [--keep DIR]` makes a library, indexes its vectors and searches it.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from PIL import Image

from mrnn.demo import sample_photos
from mrnn.library import Library, Walk
from mrnn.library.rows import file_row
from mrnn.library.searching import SHORTLIST
from mrnn.pipeline import load

LARGE = 120
UNCHANGED = 10_000
QUERIES = ("a dog in the snow", "two men play football", "a child in a red coat", "a car on a street")


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


def fill(library: Library, photos: int) -> None:
    """Rows with vectors that spread as those of real photos do, as if these had been indexed."""
    rng = np.random.default_rng(0)
    real, tables = library.pipeline.references, library.tables
    assert real is not None
    for start in range(0, photos, 50_000):
        n = min(50_000, photos - start)
        hashes = [f"{i:064x}" for i in range(start, start + n)]
        # Between two real ones, as photos of two things are, with a share of noise of their own.
        one, other = (real[rng.integers(len(real), size=n)] for _ in range(2))
        share = rng.random((n, 1), np.float32)
        noise = rng.standard_normal((n, real.shape[1]), np.float32) * (np.float32(0.3) * real.std(0))
        image = (share * one + (1 - share) * other + noise).astype(np.float16)
        days = np.datetime64("2000-01-01T00:00:00") + rng.integers(0, 9000 * 86400, n).astype("timedelta64[s]")
        columns = {
            "hash": hashes,
            "taken": days.astype(str),
            "taken_from": ["EXIF"] * n,
            "confidence": np.full(n, 0.5, np.float32),
            "width": np.full(n, 4000, np.int32),
            "height": np.full(n, 3000, np.int32),
            "thumbnail": [b""] * n,
            "image": pa.FixedSizeListArray.from_arrays(pa.array(image.ravel()), real.shape[1]),
            "captions": [["a photo"]] * n,
            "likelihoods": [[-1.0]] * n,
        }
        files = [
            {"path": f"/photos/{hash[-2:]}/{hash}.jpg", "size": 0, "time": 0, "hash": hash, "error": ""}
            for hash in hashes
        ]
        contents = pa.table(columns, schema=tables.schemas["contents"])
        lance.write_dataset(contents, tables.place.uri("contents.lance"), mode="append")
        tables.commit("files", tables.write("files", files))


def made(folder: Path, photos: int) -> None:
    """Make, index and search a library of so many photos, and print what it takes."""
    pipe = load()
    new = not (folder / "library.json").is_file()
    library = Library(folder, pipe)
    if new:
        clock = time.perf_counter()
        fill(library, photos)
        written = time.perf_counter() - clock
        clock = time.perf_counter()
        library.tables.tidy()
        print(f"            written in {written:.0f} s, joined and indexed in {time.perf_counter() - clock:.0f} s")
    bytes_each = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / photos
    tables, times = library.tables, []
    library.search(QUERIES[0])
    for sentence in 3 * QUERIES:
        clock = time.perf_counter()
        library.search(sentence)
        times.append(1000 * (time.perf_counter() - clock))
    recalls = [recall(library, sentence) for sentence in QUERIES]
    print(
        f"            {photos:,} photos: search {np.median(times):.0f} ms (slowest {max(times):.0f}), "
        f"recall@10 {np.mean(recalls):.3f}, {'indexed' if tables.indexed else 'flat'}, "
        f"{bytes_each:,.0f} bytes a photo without thumbnails",
        flush=True,
    )
    command = [sys.executable, "-c", _COLD, "search", QUERIES[1], "--library", str(folder)]
    subprocess.run(command, capture_output=True, check=False)
    clock = time.perf_counter()
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]
    print(
        f"            mrnn search, whole process {time.perf_counter() - clock:.2f} s, {int(told) / 1024:.0f} MiB",
        flush=True,
    )


_COLD = """
import sys
from mrnn.cli import main
code = main()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)
raise SystemExit(code)
"""


def recall(library: Library, sentence: str) -> float:
    """Share of the ten largest first-order products that the tables' search gives."""
    from mrnn.tasks.retrieval import first_order

    pipe, tables = library.pipeline, library.tables
    vector = first_order(pipe.model, pipe.vocabulary, pipe.sentence_ids([sentence]), pipe.centre).vectors[0]
    found = tables.nearest(vector, SHORTLIST, "", ["hash"])
    exact = tables.read(
        "contents", ["hash"], nearest={"column": "image", "q": vector, "k": 10, "metric": "dot", "use_index": False}
    )
    return len(set(found["hash"].to_pylist()) & set(exact["hash"].to_pylist())) / 10


def main() -> None:
    """Time what a library is asked for."""
    pipe = load()
    pipe.encoder  # noqa: B018, loaded before the clock runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        folder.mkdir()
        large_photos(folder)
        for hand in ("onnx", "torch"):
            library = Library(Path(place) / hand, load("base", hand, "cpu"))
            clock = time.perf_counter()
            assert library.index(folder).added == LARGE
            rate = LARGE / (time.perf_counter() - clock)
            print(f"library     {hand}: {rate:.1f} 12-megapixel photos/s", flush=True)
        print(f"            a reduced decode alone {draft_milliseconds(folder):.0f} ms of one core", flush=True)

        folder = Path(place) / "many"
        folder.mkdir()
        (folder / "0.jpg").write_bytes(sample_photos()[0].read_bytes())
        for i in range(1, UNCHANGED):
            os.link(folder / "0.jpg", folder / f"{i}.jpg")
        library = Library(Path(place) / "two", pipe)
        fill(library, 1)
        files = [
            {**file_row(path, status.st_size, status.st_mtime_ns), "hash": "0" * 64} for path, status in Walk(folder)
        ]
        library.tables.commit("files", library.tables.write("files", files))
        clock = time.perf_counter()
        assert library.index(folder).unchanged == UNCHANGED
        print(
            f"            second run over {UNCHANGED:,} unchanged photos {time.perf_counter() - clock:.2f} s",
            flush=True,
        )
        made(Path(place) / "three", 100_000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, required=True)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    with contextlib.nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory() as kept:
        made(Path(kept) / str(asked.photos), asked.photos)
