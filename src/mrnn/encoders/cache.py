"""Pooled features on disk, so that a photo is encoded once.

One folder an encoder (its name and fingerprint, which covers weights and preprocessing), two files in it:
`features.f16`, rows of D float16 numbers, and `photos.sha256`, a line a row with the hash of the photo's
content. Rows are appended, then lines, so a kill leaves at most rows without a line; they are cut off at
the next writing. Readers map the rows into memory.

Shapes: N images, D feature width.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from mrnn.encoders.base import Encoder
from mrnn.files import remove_leftovers, sha256, write_json
from mrnn.images import ImageError, PhotoFile, StoredPhoto
from mrnn.threads import cores, each

_LINE = 65  # 64 hexadecimal digits and a line end


def default_folder() -> Path:
    """`$MRNN_CACHE`, or `mrnn` in the user's cache folder."""
    if folder := os.environ.get("MRNN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrnn"


class FeatureCache:
    """Pooled features of photos by their content.

    Args:
        encoder: Whose features.
        folder: Where the caches of all encoders lie; `default_folder()` if None.
        mirror: Hold the features of the photos' mirror images.
    """

    def __init__(self, encoder: Encoder, folder: Path | str | None = None, mirror: bool = False):
        self.encoder, self.mirror = encoder, mirror
        safe = "".join(c if c.isalnum() else "_" for c in encoder.name.partition(":")[0])
        self.folder = Path(folder or default_folder()) / "features" / f"{safe}-{encoder.fingerprint[:16]}"
        if mirror:
            self.folder = self.folder.with_name(f"{self.folder.name}-mirror")
        self._rows_file, self._keys_file = self.folder / "features.f16", self.folder / "photos.sha256"

    def features(
        self,
        paths: Sequence[PhotoFile],
        progress: Callable[[int, int], None] = lambda done, total: None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, list[int], list[ImageError]]:
        """Pooled features of the photos, encoding those that are not in the cache yet.

        Args:
            paths: Photos.
            progress: Called with the number of photos that are done, and of all.
            threads: Reading and decoding threads; as many as there are cores if None.

        Returns:
            (N, D), or (N, 1 + K, D), float16 features of the photos that can be used, their positions in `paths`,
            and the errors of the others.

        Raises:
            ValueError: The encoder gives numbers that are not finite; the photo is named.
        """
        keys: list[str | ImageError] = list(each(paths, _content_hash, threads or cores()))
        known = self._known()
        missing: dict[str, PhotoFile] = {
            key: path for key, path in zip(keys, paths, strict=True) if isinstance(key, str) and key not in known
        }
        reasons: dict[str, str] = {}
        if missing:
            encoded = {error.name: error.reason for error in self._encode(missing, progress, len(paths), threads)}
            reasons = {key: encoded[str(path)] for key, path in missing.items() if str(path) in encoded}
            known = self._known()
        progress(len(paths), len(paths))
        rows: list[int] = []
        usable: list[int] = []
        errors: list[ImageError] = []
        for i, (key, path) in enumerate(zip(keys, paths, strict=True)):
            if isinstance(key, ImageError):
                errors.append(key)
            elif key in known:
                rows.append(known[key])
                usable.append(i)
            else:
                errors.append(ImageError(str(path), reasons.get(key, "changed while it was read")))
        found = self._rows(len(known))[rows]
        if not np.isfinite(found).all():
            raise ValueError(f"{self._rows_file}: holds features that are not finite; delete the folder")
        return found, usable, errors

    def _encode(self, missing: dict[str, PhotoFile], progress, total: int, threads: int | None) -> list[ImageError]:
        names, paths = list(missing), list(missing.values())
        errors: list[ImageError] = []
        with self._writing() as (rows, lines):
            done = total - len(missing)
            for positions, features, bad in self.encoder.encode(paths, threads=threads, mirror=self.mirror):
                errors += bad
                if features is not None:
                    with np.errstate(over="ignore"):  # what overflows is refused below, with the photo's name
                        pooled = features.pooled.astype(np.float16)
                    finite = np.isfinite(pooled).reshape(len(pooled), -1).all(1)
                    if not finite.all():
                        photo = paths[positions[int(finite.argmin())]]
                        raise ValueError(f"{photo}: {self.encoder.name} gives features that are not finite")
                    rows.write(pooled.tobytes())
                    rows.flush()
                    lines.write("".join(names[i] + "\n" for i in positions).encode())
                    lines.flush()
                done += len(positions) + len(bad)
                progress(done, total)
            for file in (rows, lines):
                os.fsync(file.fileno())
        return errors

    @contextlib.contextmanager
    def _writing(self) -> Generator[tuple]:
        """Both files open for appending, cut to the same length, and locked against other processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        if not (self.folder / "encoder.json").exists():
            write_json(self.folder / "encoder.json", self.encoder.describe())
        with FileLock(self.folder / "lock"), self._rows_file.open("ab") as rows, self._keys_file.open("ab") as lines:
            n = min(rows.tell() // self._row_bytes, lines.tell() // _LINE)
            rows.truncate(n * self._row_bytes)
            lines.truncate(n * _LINE)
            yield rows, lines

    @property
    def _row_bytes(self) -> int:
        return 2 * math.prod(self.encoder.feature_shape)

    def _known(self) -> dict[str, int]:
        if not (self._keys_file.exists() and self._rows_file.exists()):
            return {}
        content = self._keys_file.read_text(encoding="utf-8")
        n = min(len(content) // _LINE, self._rows_file.stat().st_size // self._row_bytes)
        return {content[i * _LINE : i * _LINE + 64]: i for i in range(n)}

    def _rows(self, n: int) -> np.ndarray:
        if n == 0:
            return np.empty((0, *self.encoder.feature_shape), np.float16)
        # Two processes that met the same photo leave two rows of it: n counts hashes, the file holds more.
        size = self._rows_file.stat().st_size // self._row_bytes
        return np.memmap(self._rows_file, np.float16, "r", shape=(size, *self.encoder.feature_shape))


# Of files read before in this process: a data set's splits, views and figures ask for the same photos again.
_HASHES: dict[tuple[str, int, int], str] = {}
_SETTLED = 2_000_000_000  # nanoseconds: a file written since may be written again without its time telling


def _content_hash(path: PhotoFile) -> str | ImageError:
    try:
        if isinstance(path, StoredPhoto):
            return sha256(path.read_bytes())
        status = Path(path).stat()
        key = str(path), status.st_size, status.st_mtime_ns
        found = _HASHES.get(key) or sha256(Path(path))
        if time.time_ns() - status.st_mtime_ns > _SETTLED:
            _HASHES[key] = found
        return found
    except FileNotFoundError:
        return ImageError(str(path), "no such file")
    except OSError as error:
        return ImageError(str(path), f"cannot be read ({error.strerror})")
