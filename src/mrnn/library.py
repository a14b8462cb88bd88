"""Your own photos, indexed and searchable: one LanceDB table in one folder, and nothing written anywhere else.

    LIBRARY/library.json       the model that the vectors are of
    LIBRARY/photos.lance       a row a photo: file, content, date, thumbnail, vectors, captions
    LIBRARY/lock               held by the one process that writes

A photo is known by its path, size and time, and again by its content when it was renamed. Rows are committed a batch
at a time, and each commit is atomic, so a kill costs the batch in hand.

Shapes: N photos, D feature width, M multimodal width, K candidates.
"""

import contextlib
import csv
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from mrnn.corpora.base import IMAGE_SUFFIXES
from mrnn.files import atomic_path, read_json, sha256, write_json
from mrnn.images import ImageError, ImageSource, open_image
from mrnn.pipeline import Pipeline
from mrnn.runtime.protocol import top_k
from mrnn.tasks.retrieval import encode_sentences, first_order, pair_log_likelihood
from mrnn.threads import cores, each

FORMAT = 1
THUMBNAIL = 256
BATCH = 128
CAPTIONS = 3
SHORTLIST = 200
_LARGE = 10**9
_LISTED = ("path", "size", "time", "hash", "error")
_SHOWN = ("path", "hash", "taken", "width", "height", "captions", "likelihoods")


def default_library() -> Path:
    """`$MRNN_LIBRARY`, or `mrnn/library` in the user's data folder."""
    if folder := os.environ.get("MRNN_LIBRARY"):
        return Path(folder)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mrnn" / "library"


class UnknownPhoto(ValueError):
    """No photo of the library has this path or id."""


@dataclass(frozen=True)
class Filters:
    """Which photos a search looks at.

    Args:
        folder: Only photos in this folder or below it.
        after: Only photos taken on this day or later; the file's time stands in for a date that EXIF lacks.
        before: Only photos taken on this day or earlier.
        caption: Only photos with a caption that holds this, whatever the case.
    """

    folder: Path | None = None
    after: date | None = None
    before: date | None = None
    caption: str = ""


@dataclass(frozen=True)
class Found:
    """A photo that a search found.

    Args:
        id: Hash of its content.
        path: The file.
        score: What it was ranked by: nats for a sentence, a cosine for a photo, standard deviations for both.
        caption: The best caption of it.
        taken: When, as ISO date and time.
        familiar: Whether it is like the photos that the model was trained on; else caption and score are a guess.
    """

    id: str
    path: Path
    score: float
    caption: str
    taken: str
    familiar: bool = True


@dataclass
class IndexReport:
    """What an indexing run did.

    Args:
        unchanged: Photos that were not read.
        added: Photos that were encoded.
        recognised: Photos whose content was known under another name.
        removed: Photos that are gone.
        unfamiliar: Photos of those added that are unlike what the model was trained on.
        errors: Photos that cannot be used.
    """

    unchanged: int = 0
    added: int = 0
    recognised: int = 0
    removed: int = 0
    unfamiliar: int = 0
    errors: list[ImageError] = field(default_factory=list)


@dataclass(frozen=True)
class _Read:
    """A file that was read: its row, and the encoder's input unless the content is known or unusable."""

    path: str
    status: os.stat_result
    row: dict[str, Any]
    pixels: np.ndarray | None = None


_OURS = ("lock", "photos.lance")


def photo_files(folder: Path, unread: list[ImageError]) -> Iterator[tuple[str, os.stat_result]]:
    """Photos in a folder and below it, by the endings of names; no folder is walked twice, whatever links to it.

    Args:
        folder: To walk.
        unread: Takes the folders that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        try:
            here = os.stat(place)  # noqa: PTH116
            if (here.st_dev, here.st_ino) in seen:
                continue
            seen.add((here.st_dev, here.st_ino))
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():  # noqa: PTH122
                        yield entry.path, entry.stat()
        except FileNotFoundError:  # has just gone
            pass
        except OSError as error:
            unread.append(ImageError(place, f"cannot be read ({error.strerror})"))


def _normal(folder: Path) -> Path:
    """An absolute path that is the same however the folder was named; links in it stay."""
    return Path(os.path.abspath(folder))  # noqa: PTH100


class Library:
    """Photos in one LanceDB folder.

    Args:
        folder: Of the library.
        pipeline: The model that encodes, captions and ranks.
        rebuild: Throw the rows of another model away.

    Raises:
        ValueError: lancedb is not installed, or the folder holds another model's library and `rebuild` is not set,
            or something else.
    """

    def __init__(self, folder: Path, pipeline: Pipeline, rebuild: bool = False):
        try:
            import lancedb
            import pyarrow as pa
        except ImportError:
            raise ValueError("the photo library needs an extra: pip install 'mrnn[library]'") from None
        self.folder, self.pipeline = folder, pipeline
        encoder = pipeline.encoder_description["fingerprint"]
        identity = {"format": FORMAT, "model": pipeline.fingerprint, "encoder": encoder}
        note = folder / "library.json"
        if not note.is_file() and folder.is_dir() and any(p.name not in _OURS for p in folder.iterdir()):
            raise ValueError(f"{folder}: is not empty and no photo library; give another --library")
        M, D = pipeline.model.image_width, math.prod(pipeline.model.feature_shape)
        self.schema = pa.schema(
            [
                ("path", pa.string()),
                ("size", pa.int64()),
                ("time", pa.int64()),
                ("hash", pa.string()),
                ("taken", pa.string()),
                ("orientation", pa.int16()),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("thumbnail", pa.binary()),
                ("features", pa.list_(pa.float16(), D)),
                ("image", pa.list_(pa.float32(), M)),
                ("captions", pa.list_(pa.string())),
                ("likelihoods", pa.list_(pa.float64())),
                ("error", pa.string()),
            ]
        )
        with self._writing() if not note.is_file() or rebuild else contextlib.nullcontext():
            database = lancedb.connect(str(folder))
            if rebuild and note.is_file() and read_json(note) != identity:
                note.unlink()
                with contextlib.suppress(ValueError):  # a kill may have dropped it already
                    database.drop_table("photos")
            if not note.is_file():
                shutil.rmtree(folder / _OURS[1], ignore_errors=True)  # what a full disk or a kill left half made
                database.create_table("photos", schema=self.schema, exist_ok=True)
                write_json(note, identity)
        if read_json(note) != identity:
            raise ValueError(
                f"{folder}: was made with another model or version of mrnn; mrnn index --rebuild encodes it anew"
            )
        self.table = database.open_table("photos")
        self._loaded: tuple[int, _Loaded] | None = None

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            yield

    def _rows(self, columns: Sequence[str], where: str = "") -> Any:
        query = self.table.search().select(list(columns)).limit(_LARGE)
        return (query.where(where) if where else query).to_arrow()

    def __len__(self) -> int:
        return self.table.count_rows("error = ''")

    def index(
        self, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None, threads: int | None = None
    ) -> IndexReport:
        """Bring the library up to date with a folder; other folders' photos stay as they are.

        Args:
            folder: To walk.
            progress: Called with the number of photos that are done, and of all.
            threads: Reading and decoding threads; as many as there are cores if None.

        Raises:
            ValueError: There is no such folder.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        folder = _normal(folder)
        with self._writing():
            self.table.checkout_latest()
            return self._index(folder, progress, threads or cores())

    def _index(self, folder: Path, progress: Callable[[int, int], None], threads: int) -> IndexReport:
        report = IndexReport()
        known = {row["path"]: row for row in self._rows(_LISTED).to_pylist()}
        here, new = set(), []
        unread: list[ImageError] = []
        for path, status in photo_files(folder, unread):
            here.add(path)
            row = known.get(path)
            if row is not None and (row["size"], row["time"]) == (status.st_size, status.st_mtime_ns):
                report.unchanged += not row["error"]
                if row["error"]:
                    report.errors.append(ImageError(path, row["error"]))
            else:
                new.append((path, status))
        report.errors += unread
        # Photos of a folder that cannot be read now may be there all the same.
        hidden = [Path(error.name) for error in unread]
        gone = [
            path
            for path in known
            if path not in here
            and Path(path).is_relative_to(folder)
            and not any(Path(path).is_relative_to(place) for place in hidden)
        ]
        contents = {row["hash"] for row in known.values() if row["hash"] and not row["error"]}
        done = len(here) - len(new)
        progress(done, len(here))
        batch: list[_Read] = []
        for i, read in enumerate(each(new, lambda item: self._read(*item, contents), threads)):
            batch.append(read)
            if len(batch) == BATCH or i == len(new) - 1:
                self._commit(batch, known, contents, report)
                batch = []
            progress(done + i + 1, len(here))
        self._delete(gone)
        report.removed = len(gone)
        if new or gone:
            self.table.optimize()
        return report

    def _read(self, path: str, status: os.stat_result, contents: Set[str]) -> _Read:
        row: dict[str, Any] = {
            "path": path,
            "size": status.st_size,
            "time": status.st_mtime_ns,
            "error": "",
            "hash": "",
        }
        try:
            path.encode()
            content = Path(path).read_bytes()
            row["hash"] = sha256(content)
            if row["hash"] in contents:
                return _Read(path, status, row)
            encoder = self.pipeline.encoder
            row |= _exif(content, status.st_mtime)
            side = round(encoder.preprocessing.side * encoder.preprocessing.scale)
            image = open_image(content, min_side=max(THUMBNAIL, side))
            row["thumbnail"] = _thumbnail(image)
            return _Read(path, status, row, encoder.pixels(image))
        except ImageError as error:
            row["error"] = error.reason
        except UnicodeEncodeError:
            row |= {"error": "has a name that is not UTF-8", "path": path.encode(errors="replace").decode()}
        except OSError as error:
            row["error"] = f"cannot be read ({error.strerror})"
        return _Read(path, status, row)

    def _commit(self, batch: list[_Read], known: dict, contents: set[str], report: IndexReport) -> None:
        import pyarrow as pa

        wanted = {read.row["hash"] for read in batch if read.pixels is None and not read.row["error"]}
        where = f"hash IN ({', '.join(map(_quote, sorted(wanted)))}) AND error = ''"
        same = {row["hash"]: row for row in (self._rows(self.schema.names, where).to_pylist() if wanted else ())}
        # A row of known content may have gone since, its path being another photo's now: such a photo is read again.
        lost = wanted - same.keys()
        batch = [self._read(read.path, read.status, set()) if read.row["hash"] in lost else read for read in batch]
        fresh = [read for read in batch if read.pixels is not None]
        if fresh:
            report.unfamiliar += self._encode(fresh)
        rows = [read.row for read in fresh]
        again = [read.row for read in batch if read.pixels is None and not read.row["error"]]
        rows += [{**same[row["hash"]], **{key: row[key] for key in ("path", "size", "time")}} for row in again]
        for read in batch:
            if read.row["error"]:
                rows.append(read.row)
                report.errors.append(ImageError(read.row["path"], read.row["error"]))
        # A photo that changed: its old row goes first, so that a kill between the two leaves it to be read again.
        self._delete([row["path"] for row in rows if row["path"] in known])
        self.table.add(pa.Table.from_pylist(rows, schema=self.schema))
        contents |= {row["hash"] for row in rows if row["hash"] and not row["error"]}
        report.added += len(fresh)
        report.recognised += len(again)

    def _encode(self, fresh: list[_Read]) -> int:
        """Fill in vectors and captions; the number of photos unlike what the model was trained on."""
        pipeline = self.pipeline
        pixels = [read.pixels for read in fresh if read.pixels is not None]
        features = np.concatenate(
            [pipeline.encoder(np.stack(pixels[i : i + 8])).pooled for i in range(0, len(pixels), 8)]
        )
        image = pipeline.model.encode_image(features)
        said = pipeline.describe_features([read.path for read in fresh], features, pipeline.options(n=CAPTIONS))
        for read, vector, b, described in zip(fresh, features, image, said, strict=True):
            read.row.update(
                features=vector.astype(np.float16).ravel(),
                image=b,
                captions=[caption.text for caption in described.captions],
                likelihoods=[caption.log_likelihood for caption in described.captions],
            )
        return sum(not described.familiar for described in said)

    def _delete(self, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), 500):
            self.table.delete(f"path IN ({', '.join(map(_quote, paths[start : start + 500]))})")

    def load(self) -> "_Loaded":
        """Vectors and captions in memory, read again only when the library has changed."""
        self.table.checkout_latest()
        if self._loaded is None or self._loaded[0] != self.table.version:
            rows = self._rows((*_SHOWN, "image"), "error = ''")
            vectors = rows.column("image").combine_chunks()
            image = np.array(vectors.flatten().to_numpy(zero_copy_only=False), np.float32)
            shown = rows.select(_SHOWN).to_pylist()
            self._loaded = self.table.version, _Loaded(image.reshape(len(shown), -1), shown)
        return self._loaded[1]

    def search(
        self,
        sentence: str | None = None,
        like: ImageSource | None = None,
        top: int = 20,
        filters: Filters | None = None,
        shortlist: int = SHORTLIST,
    ) -> list[Found]:
        """Photos that fit a sentence, or are like a photo, or both, best first.

        A sentence is ranked by its likelihood for each photo: exactly for as many as `shortlist`, which first-order
        scores choose. A photo by the cosine of image vectors about the mean training image. Both by the sum of the two,
        each in standard deviations over the photos looked at.

        Raises:
            ImageError: The photo cannot be used.
            ValueError: Neither is given, or the sentence has no word.
        """
        if sentence is None and like is None:
            raise ValueError("give a sentence or a photo to search for")
        loaded = self.load()
        rows = loaded.rows(filters or Filters())
        if not len(rows):
            return []
        image = loaded.image[rows]
        alike = None if like is None else self._cosines(image, like)
        if sentence is not None:
            scores = self._sentence_scores(image, sentence, alike, max(shortlist, top))
        else:
            assert alike is not None
            scores = alike
        values, which = (found[0] for found in top_k(scores[None], top))
        guesses = self.pipeline.unfamiliar_images(image[which])
        return [
            replace(loaded.found(int(rows[i]), score), familiar=not guess)
            for score, i, guess in zip(values.tolist(), which.tolist(), guesses, strict=True)
        ]

    def _centre(self, image: np.ndarray) -> np.ndarray:
        return image.mean(0) if self.pipeline.centre is None else self.pipeline.centre

    def _cosines(self, image: np.ndarray, like: ImageSource) -> np.ndarray:
        centre = self._centre(image)
        query = self.pipeline.model.encode_image(self.pipeline.features([like]))[0] - centre
        directions = image - centre
        lengths = np.linalg.norm(directions, axis=1) * np.linalg.norm(query)
        return directions @ query / lengths.clip(1e-8)

    def _sentence_scores(
        self, image: np.ndarray, sentence: str, alike: np.ndarray | None, shortlist: int
    ) -> np.ndarray:
        model, vocabulary = self.pipeline.model, self.pipeline.vocabulary
        ids = self.pipeline.sentence_ids([sentence])
        first = first_order(model, vocabulary, ids, self._centre(image)).scores(image)[:, 0]
        mean, deviation = first.mean(), first.std().clip(1e-6)

        def combined(scores: np.ndarray, which: np.ndarray) -> np.ndarray:
            if alike is None:
                return scores
            return (scores - mean) / deviation + ((alike - alike.mean()) / alike.std().clip(1e-6))[which]

        which = top_k(combined(first, np.arange(len(image)))[None], shortlist)[1][0]
        pairs = np.stack([np.arange(len(which)), np.zeros(len(which), np.int64)], 1)
        encoded = encode_sentences(model, vocabulary, ids)
        exact = combined(pair_log_likelihood(model, encoded, image[which], pairs, "auto"), which)
        scores = np.full(len(image), -np.inf, np.float32)
        scores[which] = exact
        return scores

    def thumbnail(self, path: Path | str) -> bytes:
        """The JPEG thumbnail of a photo.

        Raises:
            UnknownPhoto: It is not in the library.
        """
        return self._one("thumbnail", "path", str(path))

    def thumbnail_of(self, id: str) -> bytes:
        """The JPEG thumbnail of the photo whose content has a hash.

        Raises:
            UnknownPhoto: There is none.
        """
        return self._one("thumbnail", "hash", id)

    def path_of(self, id: str) -> Path:
        """The file of the photo whose content has a hash.

        Raises:
            UnknownPhoto: There is none.
        """
        return Path(self._one("path", "hash", id))

    def _one(self, column: str, key: str, value: str) -> Any:
        rows = self._rows([column], f"{key} = {_quote(value)} AND error = ''").to_pylist()
        if not rows:
            raise UnknownPhoto(f"{value}: not in the library")
        return rows[0][column]

    def export(self, file: Path) -> int:
        """Write every photo's captions as CSV or JSONL, by the file's ending.

        Returns:
            How many photos there are.

        Raises:
            ValueError: Another ending.
        """
        loaded = self.load()
        familiar = [not guess for guess in self.pipeline.unfamiliar_images(loaded.image)]
        rows = list(zip(loaded.shown, familiar, strict=True))
        out = io.StringIO()
        if file.suffix.lower() == ".csv":
            writer = csv.writer(out)
            writer.writerow(["image", "caption", "log_likelihood", "familiar"])
            writer.writerows(
                [r["path"], r["captions"][0], f"{r['likelihoods'][0]:.3f}", str(known).lower()] for r, known in rows
            )
        elif file.suffix.lower() == ".jsonl":
            for r, known in rows:
                fields = {"image": r["path"], **{key: r[key] for key in _SHOWN[1:]}, "familiar": known}
                out.write(json.dumps(fields, ensure_ascii=False) + "\n")
        else:
            raise ValueError(f"{file}: captions are exported as .csv or .jsonl")
        with atomic_path(file) as temporary:
            temporary.write_text(out.getvalue())
        return len(rows)

    def export_sidecars(self, folder: Path, overwrite: bool = False) -> tuple[int, list[Path]]:
        """Write a text file a photo beside it, `photo.jpg.txt`, for the photos in a folder and below it.

        Args:
            folder: Of photos.
            overwrite: Replace files that are there and say something else.

        Returns:
            How many photos have theirs now, and the files that say something else and were left.

        Raises:
            ValueError: There is no such folder.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        below = _normal(folder)
        written, left = 0, []
        for r in self.load().shown:
            photo = Path(r["path"])
            if not photo.is_relative_to(below) or not photo.is_file():
                continue
            sidecar, text = Path(f"{photo}.txt"), r["captions"][0] + "\n"
            if not overwrite and sidecar.exists() and sidecar.read_bytes() != text.encode():
                left.append(sidecar)
                continue
            with atomic_path(sidecar) as temporary:
                temporary.write_text(text)
            written += 1
        return written, left


class _Loaded:
    """What searches need, in memory."""

    def __init__(self, image: np.ndarray, shown: list[dict[str, Any]]):
        self.image, self.shown = image, shown

    def rows(self, filters: Filters) -> np.ndarray:
        """Rows that pass."""
        kept = range(len(self.shown))
        if filters.folder is not None:
            below = os.path.join(_normal(filters.folder), "")  # noqa: PTH118
            kept = [i for i in kept if self.shown[i]["path"].startswith(below)]
        if filters.after is not None:
            kept = [i for i in kept if self.shown[i]["taken"][:10] >= filters.after.isoformat()]
        if filters.before is not None:
            kept = [i for i in kept if self.shown[i]["taken"][:10] <= filters.before.isoformat()]
        if filters.caption:
            wanted = filters.caption.casefold()
            kept = [i for i in kept if any(wanted in caption.casefold() for caption in self.shown[i]["captions"])]
        return np.array(list(kept), np.int64)

    def found(self, row: int, score: float) -> Found:
        """A row as a search gives it."""
        r = self.shown[row]
        return Found(r["hash"], Path(r["path"]), score, r["captions"][0], r["taken"])


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _exif(content: bytes, modified: float) -> dict[str, Any]:
    """Date, orientation and size of a photo, from its head alone."""
    taken, orientation = datetime.fromtimestamp(modified).isoformat(timespec="seconds"), 1
    width = height = 0
    with contextlib.suppress(Exception):  # metadata may hold anything; whether it is a photo is found out later
        image = Image.open(io.BytesIO(content))
        width, height = image.size
        exif = image.getexif()
        orientation = int(exif.get(0x0112, 1))
        original = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)
        if original:
            taken = datetime.strptime(str(original)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    return {"taken": taken, "orientation": orientation, "width": width, "height": height}


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()
