"""The library on disk: two Lance tables in one place, and nothing written anywhere else.

    LIBRARY/library.json       format, and the model that the vectors are of
    LIBRARY/contents.lance     a row a photo, whatever files hold it: date, size, thumbnail, image vector, captions
    LIBRARY/files.lance        a row a file: path, size, time, and which photo it holds or why it cannot be used
    LIBRARY/lock, writer.json  held by the one process that writes, and who that is (`place.py`)

Every commit is atomic. Photos are committed before the files that hold them, and taken out after: a kill between the
two leaves a photo without a file, which no search shows and the next run finds again.

Shapes: N photos, M width of an image vector.
"""

import contextlib
import functools
import math
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from mrnn.files import first_line
from mrnn.images import SIDEWAYS
from mrnn.library.place import Place
from mrnn.pipeline import Pipeline

FORMAT = 4
INDEXED = 50_000
_KEPT = timedelta(days=1)
_NEAR = 1000  # photos that twenty partitions surely have
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


def _told(method: Callable) -> Callable:
    """A method of `Tables` in our words: Lance's panics, which are no `Exception`, mean that the library is damaged."""

    @functools.wraps(method)
    def told(self: "Tables", *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except OSError as error:  # of a write; Lance names its own source file too
            reason = "No space left on device" if "os error 28" in str(error) else first_line(error).partition(", /")[0]
            raise OSError(f"{self.place}: cannot be written ({reason})") from None
        except BaseException as error:
            if isinstance(error, RuntimeError) or type(error).__name__ == "PanicException":
                raise LibraryGone(f"{self.place}: is damaged ({first_line(error)}); delete it and index anew") from None
            raise

    return told


class Tables:
    """The tables of one place.

    Args:
        place: Of the library.
        identity: What the rows are of: model and encoder.
        width: M.
        rebuild: Throw the rows of another model away.

    Raises:
        ValueError: pylance is not installed, or the place holds another model's library and `rebuild` is not set, or
            something else.
    """

    def __init__(self, place: Place, identity: dict[str, Any], width: int, rebuild: bool = False):
        os.environ.setdefault("LANCE_LOG", "error")  # its warnings of small clusters are no business of people's
        try:
            import lance
            import pyarrow as pa
        except ImportError:
            raise ValueError("the photo library needs an extra: pip install 'mrnn[library]'") from None
        self._lance, self.place, self.width = lance, place, width
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
                    ("taken_from", pa.string()),
                    ("confidence", pa.float32()),
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
        self._whole: set[str] = set()  # data files that were seen to be
        there = place.names()
        if "library.json" not in there and any(name not in _OURS for name in there):
            raise ValueError(f"{place}: is not empty and no photo library; give another --library")
        first, *later = ({**self.identity, "format": number} for number in range(1, FORMAT))
        former = "library.json" in there and any(map(self._is, (first, *later)))
        if "library.json" not in there or (rebuild and not self._is(self.identity)) or former:
            with self.writing():
                # Another process may have done it meanwhile.
                known = place.has("library.json")
                if known and self._is(first):
                    self._take_over()
                elif known and any(map(self._is, later)):
                    self._add_columns()
                elif not known or not self._is(self.identity):
                    # The note first; then what is of another model, or what a full disk or a kill left half made.
                    for name in ("library.json", *_OURS[2:]):
                        place.remove(name)
                    for name, schema in self.schemas.items():
                        self._create(name, schema.empty_table())
                    self._sign()
        if not self._is(self.identity):
            raise ValueError(
                f"{place}: was made with another model or version of mrnn; mrnn index --rebuild encodes it anew"
            )

    def _is(self, identity: dict[str, Any]) -> bool:
        return identity.items() <= self.place.read("library.json").items()

    def _sign(self) -> None:
        """Say what the tables are of; those made anew, even of the same model, are others."""
        self.place.write("library.json", {**self.identity, "made": uuid.uuid4().hex})

    def writing(self, waiting: Callable[[str], None] = lambda who: None) -> contextlib.AbstractContextManager[None]:
        """Be the one process that writes.

        Args:
            waiting: Told who writes, if one must wait.
        """
        return self.place.writing(waiting)

    @_told
    def latest(self, name: str) -> Any:
        """A table as it is now.

        Args:
            name: `contents` or `files`.

        Raises:
            LibraryGone: It was deleted, or is another model's now.
        """
        try:
            note = self.place.read("library.json")
            if not self.identity.items() <= note.items():
                raise LibraryGone(f"{self.place}: the library is of another model now")
            if note.get("made") != self._made:
                self._made, self._open = note.get("made"), {}
            # A table that others may just read is not moved on to a newer version: another is opened, with its caches.
            table = self._open.get(name)
            if table is None or table.latest_version != table.version:
                session = None if table is None else table.session()
                table = self._dataset(name, session)
                self._open[name] = table
            return table
        except LibraryGone:
            raise
        except (OSError, ValueError, RuntimeError):
            self._open.pop(name, None)
            raise LibraryGone(f"{self.place}: the library is gone, or is just being made") from None

    def read(self, name: str, columns: Sequence[str], where: str = "", **options: Any) -> Any:
        """Rows of a table, as Arrow gives them.

        Args:
            name: Of the table.
            columns: Which.
            where: Condition of SQL; all rows if empty.
            options: Lance's, such as `nearest`, `limit`, `order_by`.

        Raises:
            LibraryGone: It was deleted, or is another model's now.
        """
        return self._ask(name, lambda table: _scanner(table, columns, where, options).to_table())

    def count(self, name: str) -> int:
        """How many rows a table has; errors are those of `read`."""
        return self._ask(name, lambda table: table.count_rows())

    @_told
    def _ask(self, name: str, question: Callable[[Any], Any]) -> Any:
        """Ask a table as it is now; once more if what it is made of went away meanwhile, as when others tidy it."""
        for again in (True, False):
            table = self.latest(name)
            try:
                return question(table)
            except (OSError, ValueError, RuntimeError) as error:
                self._open.pop(name, None)
                if not again:
                    raise self._unread(error) from None
        raise AssertionError

    def _unread(self, error: Exception) -> Exception:
        """What a failure to read means, in our words or for `_told`."""
        if isinstance(error, RuntimeError):
            return error
        return LibraryGone(f"{self.place}: cannot be read ({first_line(error)})")

    def batches(self, name: str, columns: Sequence[str], where: str = "", size: int = 1024) -> Iterator[Any]:
        """`read`, some rows at a time."""
        batches = iter(_scanner(self.latest(name), columns, where, {"batch_size": size}).to_batches())
        while (batch := self._next(batches)) is not None:
            yield batch

    @_told
    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (OSError, ValueError) as error:
            raise self._unread(error) from None

    def nearest(self, vector: np.ndarray, k: int, where: str, columns: Sequence[str]) -> Any:
        """The k photos whose image vectors have the largest products with a vector, as Arrow gives them.

        Args:
            vector: (M,).
            k: How many.
            where: Condition of SQL.
            columns: To read of them.
        """
        # Where fewer than k may be in twenty partitions, Lance looks at more, and takes longer from the start.
        probes = "minimum_nprobes" if where or k > _NEAR else "nprobes"
        asked = {"column": "image", "q": vector.astype(np.float32), "k": k, "metric": "dot", probes: 20}

        def search(table: Any) -> Any:
            # The index rounds: of more photos, more lie within what it rounds by, and are read again.
            more = {}
            if "image_idx" in _indices(table):
                more["refine_factor"] = max(4, math.ceil(1.5 * table.count_rows() ** 0.5 / k))
            return _scanner(table, columns, where, {"nearest": {**asked, **more}}).to_table()

        return self._ask("contents", search)

    @property
    def indexed(self) -> bool:
        """Whether searches go through an index of vectors."""
        return self._ask("contents", lambda table: "image_idx" in _indices(table))

    def places(self, hashes: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Paths of the files that hold photos; of all photos if None."""
        found: dict[str, list[str]] = {}
        conditions = ["hash != ''"] if hashes is None else [one_of("hash", some) for some in parts(list(hashes))]
        for where in conditions:
            for row in self.read("files", ["hash", "path"], where).to_pylist():
                found.setdefault(row["hash"], []).append(row["path"])
        return found

    @_told
    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Write rows that no version of a table has until they are committed; another process may do that.

        Args:
            name: Of the table.
            rows: By column.

        Returns:
            Lance's fragments.
        """
        from lance.fragment import write_fragments

        return list(write_fragments(self._arrow(name, rows), self.latest(name))) if rows else []

    @_told
    def commit(self, name: str, fragments: Sequence[Any]) -> None:
        """Make what `write` wrote part of a table, by one version."""
        if fragments:
            table, append = self._owned(name), self._lance.LanceOperation.Append(list(fragments))
            self._lance.LanceDataset.commit(table, append, read_version=table.version)

    @_told
    def put(self, name: str, rows: Sequence[dict[str, Any]], key: str) -> None:
        """Commit rows; those of the same key are replaced.

        Args:
            name: Of the table.
            rows: By column.
            key: A column.
        """
        if rows:
            merge = self._owned(name).merge_insert(key)
            merge.when_matched_update_all().when_not_matched_insert_all().execute(self._arrow(name, rows))

    @_told
    def update(self, name: str, rows: Sequence[dict[str, Any]], key: str) -> None:
        """Commit some columns of rows that are there.

        Args:
            name: Of the table.
            rows: By column, all of the same columns.
            key: One of these.
        """
        import pyarrow as pa

        if rows:
            schema = pa.schema([self.schemas[name].field(column) for column in rows[0]])
            merge = self._owned(name).merge_insert(key)
            merge.when_matched_update_all().execute(pa.Table.from_pylist(list(rows), schema=schema))

    @_told
    def delete(self, name: str, column: str, values: Sequence[str]) -> None:
        """Take the rows out whose column has one of the values."""
        for some in parts(list(values)):
            self._owned(name).delete(one_of(column, some))

    def _arrow(self, name: str, rows: Sequence[dict[str, Any]]) -> Any:
        import pyarrow as pa

        return pa.Table.from_pylist(list(rows), schema=self.schemas[name])

    def _owned(self, name: str) -> Any:
        """A table that this process may change."""
        self.place.check()
        return self.latest(name)

    def _dataset(self, name: str, session: Any = None) -> Any:
        uri = self.place.uri(f"{name}.lance")
        table = self._lance.dataset(uri, session=session, storage_options=self.place.options)
        # What Lance tells Arrow ends the process where it has a zero byte: names, and what is wrong with a file's head.
        if any("\0" in name for name in _names(table.lance_schema.fields())):
            raise ValueError(f"{uri}: is damaged")
        for fragment in table.get_fragments() if self.place.locked else ():
            files = {file.path for file in fragment.data_files()}
            if not files <= self._whole:
                fragment.take([0])  # which is told in another way
                self._whole |= files
        return table

    def _create(self, name: str, data: Any) -> None:
        self._lance.write_dataset(data, self.place.uri(f"{name}.lance"), storage_options=self.place.options)

    @_told
    def tidy(self) -> None:
        """Join small files, drop versions that nobody reads any more, and keep the index of vectors up to date."""
        for name in self.schemas:
            table = self._owned(name)
            table.optimize.compact_files()
            # Where nobody else can write, files that no version has are what a kill left; elsewhere after a week.
            table.cleanup_old_versions(older_than=_KEPT, delete_unverified=self.place.locked)
        for name, column in (("contents", "hash"), ("files", "hash"), ("files", "path")):
            index = f"{column}_idx"
            if index in _indices(self.latest(name)):
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

    def _add_columns(self) -> None:
        """Make room for what former formats do not say of their photos: what a date is from, and the confidence."""
        table = self._dataset("contents")
        missing = {"taken_from": "''", "confidence": "CAST(NULL AS FLOAT)"}
        missing = {name: value for name, value in missing.items() if name not in table.schema.names}
        if missing:  # a kill may have come before the note was signed
            table.add_columns(missing)
        self._sign()

    def _take_over(self) -> None:
        """Make the tables of what the first format had in one, `photos.lance`, without encoding a photo again."""
        import pyarrow as pa

        for name in self.schemas:
            self.place.remove(f"{name}.lance")
        old = self._dataset("photos")
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
                        rows.append(
                            {**row, "image": np.asarray(row["image"], np.float16), "taken_from": "", "confidence": None}
                        )
                yield from pa.Table.from_pylist(rows, schema=self.schemas["contents"]).to_batches()

        def reader(name: str, batches: Iterator[Any]) -> Any:
            return pa.RecordBatchReader.from_batches(self.schemas[name], batches)

        self._create("contents", reader("contents", contents()))
        files = old.scanner(columns=self.schemas["files"].names, batch_size=10_000).to_batches()
        self._create("files", reader("files", iter(files)))
        self._sign()
        self.place.remove("photos.lance")


def tables_of(pipeline: Pipeline, place: Place, rebuild: bool = False) -> Tables:
    """The tables whose rows a pipeline makes; arguments and errors are those of `Tables`."""
    identity = {"model": pipeline.fingerprint, "encoder": pipeline.encoder_description["fingerprint"]}
    return Tables(place, identity, pipeline.model.image_width, rebuild)


def _scanner(table: Any, columns: Sequence[str], where: str, options: dict[str, Any]) -> Any:
    return table.scanner(
        columns=list(columns),
        filter=where or None,
        prefilter=bool(where),
        disable_scoring_autoprojection=True,
        **options,
    )


def _names(fields: Sequence[Any]) -> Iterator[str]:
    for field in fields:
        yield field.name()
        yield from _names(field.children())


def _indices(table: Any) -> set[str]:
    return {index.name for index in table.describe_indices()}


def vectors(table: Any) -> np.ndarray:
    """(N, M) float32, of the column `image`."""
    column = table.column("image").combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(
        len(table), column.type.list_size
    )
