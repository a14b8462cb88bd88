"""The library on disk: two Lance tables in one folder, and nothing written anywhere else.

    LIBRARY/library.json       format, and the model that the vectors are of
    LIBRARY/contents.lance     a row a photo, whatever files hold it: date, size, thumbnail, image vector, captions
    LIBRARY/files.lance        a row a file: path, size, time, and which photo it holds or why it cannot be used
    LIBRARY/lock, writer.json  held by the one process that writes, and who that is

Every commit is atomic. Photos are committed before the files that hold them, and taken out after: a kill between the
two leaves a photo without a file, which no search shows and the next run finds again.

Shapes: N photos, M width of an image vector.
"""

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mrnn.files import read_json, write_json
from mrnn.library.rows import SIDEWAYS

FORMAT = 2
INDEXED = 50_000
_KEPT = timedelta(days=1)
_OURS = ("lock", "writer.json", "contents.lance", "files.lance", "photos.lance")


class LibraryGone(ValueError):
    """The library was deleted, or is another model's now."""


def quote(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def one_of(column: str, values: Sequence[str]) -> str:
    """A condition of SQL."""
    return f"{column} IN ({', '.join(map(quote, values))})"


def parts(values: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """Some at a time, so that a condition stays short."""
    return (values[i : i + size] for i in range(0, len(values), size))


class Tables:
    """The tables of one folder.

    Args:
        folder: Of the library.
        identity: What the rows are of: model and encoder.
        width: M.
        rebuild: Throw the rows of another model away.

    Raises:
        ValueError: pylance is not installed, or the folder holds another model's library and `rebuild` is not set, or
            something else.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], width: int, rebuild: bool = False):
        os.environ.setdefault("LANCE_LOG", "error")  # its warnings of small clusters are no business of people's
        try:
            import lance
            import pyarrow as pa
        except ImportError:
            raise ValueError("the photo library needs an extra: pip install 'mrnn[library]'") from None
        self._lance, self.folder, self.width = lance, folder, width
        self.identity = {"format": FORMAT, **identity}
        self.schemas = {
            "contents": pa.schema(
                [
                    ("hash", pa.string()),
                    ("taken", pa.string()),
                    ("width", pa.int32()),
                    ("height", pa.int32()),
                    ("thumbnail", pa.binary()),
                    ("image", pa.list_(pa.float16(), width)),
                    ("captions", pa.list_(pa.string())),
                    ("likelihoods", pa.list_(pa.float32())),
                ]
            ),
            "files": pa.schema(
                [
                    ("path", pa.string()),
                    ("size", pa.int64()),
                    ("time", pa.int64()),
                    ("hash", pa.string()),
                    ("error", pa.string()),
                ]
            ),
        }
        self._open: dict[str, Any] = {}
        self._made: str | None = None
        note = folder / "library.json"
        if not note.is_file() and folder.is_dir() and any(p.name not in _OURS for p in folder.iterdir()):
            raise ValueError(f"{folder}: is not empty and no photo library; give another --library")
        former = {**self.identity, "format": 1}
        if not note.is_file() or (rebuild and not self._is(self.identity)) or self._is(former):
            with self.writing():
                # Another process may have done it meanwhile.
                if note.is_file() and self._is(former):
                    self._take_over()
                elif not note.is_file() or not self._is(self.identity):
                    note.unlink(missing_ok=True)
                    for name in _OURS[2:]:  # what is of another model, or what a full disk or a kill left half made
                        shutil.rmtree(folder / name, ignore_errors=True)
                    for name, schema in self.schemas.items():
                        lance.write_dataset(schema.empty_table(), folder / f"{name}.lance")
                    self._sign()
        if not self._is(self.identity):
            raise ValueError(
                f"{folder}: was made with another model or version of mrnn; mrnn index --rebuild encodes it anew"
            )

    def _note(self) -> dict[str, Any]:
        note = read_json(self.folder / "library.json")
        return note if isinstance(note, dict) else {}

    def _is(self, identity: dict[str, Any]) -> bool:
        return identity.items() <= self._note().items()

    def _sign(self) -> None:
        """Say what the tables are of; those made anew, even of the same model, are others."""
        write_json(self.folder / "library.json", {**self.identity, "made": uuid.uuid4().hex})

    @contextlib.contextmanager
    def writing(self, waiting: Callable[[str], None] = lambda who: None) -> Generator[None]:
        """Be the one process that writes.

        Args:
            waiting: Told who writes, if one must wait.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(self._writer())
            lock.acquire()
        try:
            now = datetime.now().isoformat(timespec="seconds")
            write_json(
                self.folder / "writer.json", {"process": os.getpid(), "host": socket.gethostname(), "since": now}
            )
            yield
        finally:
            lock.release()

    def _writer(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            who = read_json(self.folder / "writer.json")
            return f"process {who['process']} on {who['host']}, which has written since {who['since']}"
        return "another process"

    def latest(self, name: str) -> Any:
        """A table as it is now.

        Args:
            name: `contents` or `files`.

        Raises:
            LibraryGone: It was deleted, or is another model's now.
        """
        try:
            note = self._note()
            if not self.identity.items() <= note.items():
                raise LibraryGone(f"{self.folder}: the library is of another model now")
            if note.get("made") != self._made:
                self._made, self._open = note.get("made"), {}
            # A table that others may just read is not moved on to a newer version: another is opened, with its caches.
            table = self._open.get(name)
            if table is None or table.latest_version != table.version:
                session = None if table is None else table.session()
                table = self._lance.dataset(self.folder / f"{name}.lance", session=session)
                self._open[name] = table
            return table
        except LibraryGone:
            raise
        except (OSError, ValueError):
            self._open.pop(name, None)
            raise LibraryGone(f"{self.folder}: the library is gone, or is just being made") from None

    def read(self, name: str, columns: Sequence[str], where: str = "", **options: Any) -> Any:
        """Rows of a table, as Arrow gives them.

        Args:
            name: Of the table.
            columns: Which.
            where: Condition of SQL; all rows if empty.
            options: Lance's, such as `nearest`, `limit`, `order_by`.
        """
        scanner = self._scanner(name, columns, where, options)
        try:
            return scanner.to_table()
        except (OSError, ValueError) as error:
            raise LibraryGone(f"{self.folder}: cannot be read ({type(error).__name__})") from None

    def batches(self, name: str, columns: Sequence[str], where: str = "", size: int = 1024) -> Iterator[Any]:
        """`read`, some rows at a time."""
        return iter(self._scanner(name, columns, where, {"batch_size": size}).to_batches())

    def _scanner(self, name: str, columns: Sequence[str], where: str, options: dict[str, Any]) -> Any:
        return self.latest(name).scanner(
            columns=list(columns),
            filter=where or None,
            prefilter=bool(where),
            disable_scoring_autoprojection=True,
            **options,
        )

    def nearest(self, vector: np.ndarray, k: int, where: str, columns: Sequence[str]) -> tuple[Any, np.ndarray]:
        """The k photos whose image vectors have the largest products with a vector.

        Args:
            vector: (M,).
            k: How many.
            where: Condition of SQL.
            columns: To read of them.

        Returns:
            Their columns, and their image vectors (K, M) in float32.
        """
        asked = {"column": "image", "q": vector.astype(np.float32), "k": k, "metric": "dot", "nprobes": 20}
        if self.indexed:
            asked["refine_factor"] = 10
        found = self.read("contents", [*columns, "image"], where, nearest=asked)
        return found, vectors(found)

    @property
    def indexed(self) -> bool:
        """Whether searches go through an index of vectors."""
        return "image_idx" in self._indices("contents")

    def _indices(self, name: str) -> set[str]:
        return {index.name for index in self.latest(name).describe_indices()}

    def places(self, hashes: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Paths of the files that hold photos; of all photos if None."""
        found: dict[str, list[str]] = {}
        conditions = ["hash != ''"] if hashes is None else [one_of("hash", some) for some in parts(list(hashes))]
        for where in conditions:
            for row in self.read("files", ["hash", "path"], where).to_pylist():
                found.setdefault(row["hash"], []).append(row["path"])
        return found

    def add(self, name: str, rows: Sequence[dict[str, Any]], key: str = "") -> None:
        """Commit rows.

        Args:
            name: Of the table.
            rows: By column.
            key: Rows of the same are replaced.
        """
        import pyarrow as pa

        if not rows:
            return
        table = pa.Table.from_pylist(list(rows), schema=self.schemas[name])
        if key:
            merge = self.latest(name).merge_insert(key)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
        else:
            self.append(name, table)

    def append(self, name: str, table: Any) -> None:
        """Commit an Arrow table."""
        self._lance.write_dataset(table, self.folder / f"{name}.lance", mode="append")

    def delete(self, name: str, column: str, values: Sequence[str]) -> None:
        """Take the rows out whose column has one of the values."""
        for some in parts(list(values)):
            self.latest(name).delete(one_of(column, some))

    def tidy(self) -> None:
        """Join small files, drop versions that nobody reads any more, and keep the index of vectors up to date."""
        for name in self.schemas:
            table = self.latest(name)
            table.optimize.compact_files()
            table.cleanup_old_versions(older_than=_KEPT)
        for name, column in (("contents", "hash"), ("files", "hash"), ("files", "path")):
            index = f"{column}_idx"
            if index in self._indices(name):
                self.latest(name).optimize.optimize_indices(index_names=[index])
            elif self._large(name):
                self.latest(name).create_scalar_index(column, "BTREE")
        self._index_vectors()

    def _index_vectors(self) -> None:
        """Make the index of vectors, anew where a tenth is not in it; what is not is looked through besides.

        Lance can also bring its index up to date, but joins the partitions to a few then, and finds half as much.
        """
        table = self.latest("contents")
        n = table.count_rows()
        outside = table.index_statistics("image_idx")["num_unindexed_rows"] if self.indexed else n
        if n >= INDEXED and outside * 10 >= n and self.width % 8 == 0:
            # 64 vectors a partition find the centres as well as 256, in a third of the time.
            table.create_index(
                "image",
                "IVF_PQ",
                metric="dot",
                replace=True,
                num_partitions=round(n**0.5),
                num_sub_vectors=self.width // 8,
                sample_rate=64,
            )

    def _large(self, name: str) -> bool:
        return self.latest(name).count_rows() >= INDEXED

    def _take_over(self) -> None:
        """Make the tables of what the first format had in one, `photos.lance`, without encoding a photo again."""
        import pyarrow as pa

        for name in self.schemas:
            shutil.rmtree(self.folder / f"{name}.lance", ignore_errors=True)
        old = self._lance.dataset(self.folder / "photos.lance")
        seen: set[str] = set()

        def contents() -> Iterator[Any]:
            own = ["hash", "taken", "width", "height", "orientation", "thumbnail", "image", "captions", "likelihoods"]
            for batch in old.scanner(columns=own, filter="error = ''", batch_size=1024).to_batches():
                rows = []
                for row in batch.to_pylist():
                    if row["hash"] not in seen:
                        seen.add(row["hash"])
                        if row.pop("orientation") in SIDEWAYS:
                            row["width"], row["height"] = row["height"], row["width"]
                        rows.append({**row, "image": np.asarray(row["image"], np.float16)})
                yield from pa.Table.from_pylist(rows, schema=self.schemas["contents"]).to_batches()

        def reader(name: str, batches: Iterator[Any]) -> Any:
            return pa.RecordBatchReader.from_batches(self.schemas[name], batches)

        self._lance.write_dataset(reader("contents", contents()), self.folder / "contents.lance")
        files = old.scanner(columns=self.schemas["files"].names, batch_size=10_000).to_batches()
        self._lance.write_dataset(reader("files", iter(files)), self.folder / "files.lance")
        self._sign()
        shutil.rmtree(self.folder / "photos.lance", ignore_errors=True)


def vectors(table: Any) -> np.ndarray:
    """(N, M) float32, of the column `image`."""
    column = table.column("image").combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(
        len(table), column.type.list_size
    )
