"""A library of photos: what is new is read, what is known is found.

A photo is known by its content, whatever files hold it; a file by its path, size and time.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrnn.images import ImageError, ImageSource
from mrnn.library import export, reading, searching
from mrnn.library.place import place_of
from mrnn.library.reading import Batch, Reader
from mrnn.library.rows import date_row, file_row, written_path
from mrnn.library.searching import SHORTLIST, Filters, Found
from mrnn.library.tables import Tables, quote, tables_of
from mrnn.library.walk import Listed, Walk, is_list, normal
from mrnn.pipeline import Pipeline
from mrnn.threads import cores, each

# What may heal while the file stays as it is: permissions, drives, and formats that an extra opens.
_LASTING = ("is damaged", "is empty", "has no pixels", "has a name")


def default_library() -> Path | str:
    """`$MRNN_LIBRARY`, or `mrnn/library` in the user's data folder."""
    if place := os.environ.get("MRNN_LIBRARY"):
        return place
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mrnn" / "library"


class UnknownPhoto(ValueError):
    """No photo of the library has this path or id."""


@dataclass
class IndexReport:
    """What an indexing run did.

    Args:
        unchanged: Files that were not read.
        added: Photos that were encoded.
        recognised: Files whose content was known.
        removed: Files that are gone.
        kept: Files that are gone but stay in the library, as so many are gone that a drive may be away.
        guesses: Photos of those added whose caption is no more than a guess.
        errors: Files that cannot be used.
        passed: How many files and folders of which kind were passed over.
    """

    unchanged: int = 0
    added: int = 0
    recognised: int = 0
    removed: int = 0
    kept: int = 0
    guesses: int = 0
    errors: list[ImageError] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


class Library:
    """Photos in Lance tables, in a folder or in object storage.

    Args:
        place: A folder, or `s3://BUCKET/PREFIX`.
        pipeline: The model that encodes, captions and ranks.
        rebuild: Throw the rows of another model away.
        storage_options: Lance's, for object storage, beside the usual `AWS_*` environment variables.

    Raises:
        ValueError: pylance is not installed, or the place cannot be reached, or holds another model's library and
            `rebuild` is not set, or something else.
    """

    def __init__(
        self,
        place: Path | str,
        pipeline: Pipeline,
        rebuild: bool = False,
        storage_options: Mapping[str, str] | None = None,
    ):
        self.place, self.pipeline = place_of(place, storage_options), pipeline
        self.tables = tables_of(pipeline, self.place, rebuild)

    def __len__(self) -> int:
        return self.tables.count("contents")

    def index(
        self,
        folder: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
        threads: int | None = None,
        exclude: Sequence[str] = (),
        retry: bool = False,
        prune: bool = False,
        links: bool = True,
        waiting: Callable[[str], None] = lambda who: None,
        ray: str | None = None,
    ) -> IndexReport:
        """Bring the library up to date with a folder; other folders' photos stay as they are.

        Files that are gone are taken out, unless fewer than half of the folder's are left: a drive may be away.

        Args:
            folder: To walk; or a list (.txt, .lst) of photos and folders, one a line.
            progress: Called with the number of files that are done, and of all.
            threads: Reading and decoding threads; as many as there are cores if None.
            exclude: Patterns of names that are passed over.
            retry: Try files again that could not be used, also those that are damaged.
            prune: Take out what is gone however much it is.
            links: Follow symbolic links, wherever they lead.
            waiting: Told who writes the library, if one must wait.
            ray: Address of the Ray cluster that does it, empty for this machine's cores; this process alone if None.

        Raises:
            ValueError: There is no such folder; what the library has of it stays, unless `prune` is set. Or the
                cluster cannot be reached, or not load the model.
        """
        folder = normal(folder)
        listed = is_list(folder)
        photos = Listed(folder, exclude, links) if listed else Walk(folder, exclude, links)
        if ray is None:
            reader = reading.in_this_process(self.pipeline, self.tables, threads or cores())
        else:
            from mrnn.library import cluster

            reader = cluster.by_workers(self.pipeline, self.tables, ray)
        with self.tables.writing(waiting):
            run = _Run(self.tables, photos.covers, retry, prune)
            if not listed and not folder.is_dir() and not (prune and run.under):
                if run.under:
                    raise ValueError(
                        f"{folder}: is gone or not mounted; its {len(run.under):,} photos stay in the library "
                        "(--prune or mrnn forget takes them out)"
                    )
                raise ValueError(f"{folder}: no such folder")
            return run.over(photos, progress, reader)

    def forget(self, folder: Path, waiting: Callable[[str], None] = lambda who: None) -> int:
        """Take the files in a folder, and photos that no other file holds, out of the library; no file is touched.

        Args:
            folder: Or a photo's path.
            waiting: As for `index`.

        Returns:
            How many files.
        """
        with self.tables.writing(waiting):
            return _Run(self.tables, Walk(normal(folder)).covers).forget()

    def search(
        self,
        sentence: str | None = None,
        like: ImageSource | None = None,
        top: int = 20,
        filters: Filters | None = None,
        shortlist: int = SHORTLIST,
    ) -> list[Found]:
        """Photos that fit a sentence, or are like a photo, or both, best first; of neither the newest first.

        A sentence is ranked by its likelihood for each photo, a photo by the cosine of image vectors about the mean
        training image, both by the sum of the two, each in standard deviations. First-order scores choose a shortlist,
        which is then ranked exactly.

        Args:
            sentence: To fit.
            like: A photo to be like.
            top: How many.
            filters: Which photos are looked at.
            shortlist: How many are ranked exactly.

        Raises:
            ImageError: The photo cannot be used.
            ValueError: The sentence has no word.
        """
        return searching.search(self.tables, self.pipeline, sentence, like, top, filters or Filters(), shortlist)

    def duplicates(self) -> list[list[Path]]:
        """Files that hold the same photo, a list a photo."""
        places = self.tables.places()
        return [[Path(path) for path in sorted(paths)] for _, paths in sorted(places.items()) if len(paths) > 1]

    def thumbnail(self, path: Path | str) -> bytes:
        """The JPEG thumbnail of a photo.

        Raises:
            UnknownPhoto: It is not in the library.
        """
        return self.thumbnail_of(self._one("files", "hash", "path", str(path)))

    def thumbnail_of(self, id: str) -> bytes:
        """The JPEG thumbnail of the photo whose content has a hash.

        Raises:
            UnknownPhoto: There is none.
        """
        return self._one("contents", "thumbnail", "hash", id)

    def path_of(self, id: str) -> Path:
        """A file that holds the photo whose content has a hash: one that is there, if any is.

        Raises:
            UnknownPhoto: There is none.
        """
        places = self.tables.places([id]).get(id)
        if not places:
            raise UnknownPhoto(f"{id}: not in the library")
        return searching.present(places)

    def _one(self, table: str, column: str, key: str, value: str) -> Any:
        rows = self.tables.read(table, [column], f"{key} = {quote(value)}").to_pylist()
        if not rows or not rows[0][column]:
            raise UnknownPhoto(f"{value}: not in the library")
        return rows[0][column]

    def export(self, file: Path) -> int:
        """Write every photo's captions as CSV or JSONL, by the file's ending.

        Returns:
            How many photos there are.

        Raises:
            ValueError: Another ending.
        """
        return export.write_table(self.tables, self.pipeline, file)

    def export_sidecars(self, folder: Path, overwrite: bool = False, xmp: bool = False) -> tuple[int, list[Path]]:
        """Write a file a photo beside it, `photo.jpg.txt` or `photo.jpg.xmp`, for the photos in a folder and below it.

        Args:
            folder: Of photos.
            overwrite: Replace what others have said of a photo.
            xmp: As XMP, which programs for photos read; what else such a file holds stays.

        Returns:
            How many photos have theirs now, and the files that say something else and were left.

        Raises:
            ValueError: There is no such folder.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        return export.write_sidecars(self.tables, normal(folder), overwrite, xmp)


class _Run:
    """One run over a folder, by the process that may write.

    Args:
        tables: To bring up to date.
        covers: Whether the run is about a path.
        retry: As for `Library.index`.
        prune: As for `Library.index`.

    Attributes:
        known: Rows of files, by path.
        under: The paths of them that the run is about.
    """

    def __init__(self, tables: Tables, covers: Callable[[str], bool], retry: bool = False, prune: bool = False):
        self.tables, self.retry, self.prune = tables, retry, prune
        rows = self.tables.read("files", self.tables.schemas["files"].names).to_pylist()
        self.known: dict[str, dict[str, Any]] = {row["path"]: row for row in rows}
        self.under = [path for path in self.known if covers(path)]
        self.holders = Counter(row["hash"] for row in rows)
        self.contents = set(self.tables.read("contents", ["hash"])["hash"].to_pylist())
        # What a kill left between the commits of a photo and of its file, or the other way round.
        self.orphans = {hash for hash in self.contents if not self.holders[hash]}
        self.places: dict[str, list[str]] = {}
        for path, row in self.known.items():
            self.places.setdefault(row["hash"], []).append(path)
        self.report = IndexReport()

    def over(self, photos: Walk | Listed, progress: Callable[[int, int], None], reader: Reader) -> IndexReport:
        """Read what is new of some photos, and take out what is gone."""
        here, new = set(), []
        for path, status in photos:
            here.add(written_path(path))
            file = file_row(path, status.st_size, status.st_mtime_ns)
            if self._settled(file):
                self.report.unchanged += 1
            else:
                new.append(file)
        self.report.errors += photos.unread
        self.report.passed = photos.passed
        done = len(here) - len(new)
        progress(done, len(here))

        def more(n: int) -> None:
            nonlocal done
            done += n
            progress(done, len(here))

        for batch in reader(new, self.contents, more):
            self._commit(batch)
        self._date(here)
        self._take_out(here, photos)
        self._finish(bool(new))
        return self.report

    def forget(self) -> int:
        """Take all files of the folder out; how many."""
        self._remove(self.under)
        self._finish()
        return self.report.removed

    def _finish(self, new: bool = False) -> None:
        self.tables.delete("contents", "hash", sorted(hash for hash in self.orphans if not self.holders[hash]))
        if new or self.report.removed or self.orphans:
            self.tables.tidy()

    def _settled(self, file: dict[str, Any]) -> bool:
        row = self.known.get(written_path(file["path"]))
        if row is None or (row["size"], row["time"]) != (file["size"], file["time"]):
            return False
        if row["error"]:
            if self.retry or not row["error"].startswith(_LASTING):
                return False
            self.report.errors.append(ImageError(row["path"], row["error"]))
            self.report.unchanged -= 1
            return True
        return row["hash"] in self.contents

    def _commit(self, batch: Batch) -> None:
        self.report.guesses += batch.guesses
        self.report.added += len(batch.hashes)
        self.tables.commit("contents", batch.fragments)
        new = set(batch.hashes)
        self.contents |= new
        dead: set[str] = set()
        for file in batch.files:
            if file["error"]:
                self.report.errors.append(ImageError(file["path"], file["error"]))
            elif file["hash"] in new:
                new.discard(file["hash"])
            else:
                self.report.recognised += 1
                dead.update(self._dead(file))
        self._remove(sorted(dead))
        files = {file["path"]: file for file in batch.files}
        for path, row in files.items():
            before = self.known.get(path)
            if before is not None:
                self.holders[before["hash"]] -= 1
                if before["hash"] and not self.holders[before["hash"]]:
                    self.orphans.add(before["hash"])
            self.holders[row["hash"]] += 1
            self.known[path] = row
            self.places.setdefault(row["hash"], []).append(path)
        self.tables.put("files", list(files.values()), "path")

    def _dead(self, row: dict[str, Any]) -> Iterator[str]:
        """The former paths of a content that is known, where nothing is any more."""
        for path in self.places.get(row["hash"], ()):
            former = self.known.get(path)
            if former is not None and former["hash"] == row["hash"] and path != row["path"] and not Path(path).exists():
                yield path

    def _remove(self, paths: Sequence[str]) -> None:
        self.tables.delete("files", "path", paths)
        for path in paths:
            hash = self.known.pop(path)["hash"]
            self.holders[hash] -= 1
            if hash and not self.holders[hash]:
                self.orphans.add(hash)
        self.report.removed += len(paths)

    def _date(self, here: set[str]) -> None:
        """Find out when photos were taken that came into the library before it kept what says so."""
        undated = self.tables.read("contents", ["hash"], "taken_from = ''")["hash"].to_pylist()
        held = ((hash, next((path for path in self.places.get(hash, ()) if path in here), "")) for hash in undated)
        held = [(hash, path, self.known[path]["time"]) for hash, path in held if path]
        dates = each(held, lambda file: date_row(*file), cores())
        self.tables.update("contents", [row for row in dates if row and row["taken_from"]], "hash")

    def _take_out(self, here: set[str], photos: Walk | Listed) -> None:
        # Photos of a folder that cannot be read now may be there all the same.
        hidden = [Path(error.name) for error in photos.unread]
        gone = [
            path
            for path in self.under
            if path in self.known and path not in here and not any(Path(path).is_relative_to(place) for place in hidden)
        ]
        # What is passed over now is there, but is no photo of the library any more.
        lost = sum(not Path(path).exists() for path in gone)
        if lost * 2 > len(self.under) and not self.prune:
            self.report.kept = lost
            gone = [path for path in gone if Path(path).exists()]
        self._remove(gone)
