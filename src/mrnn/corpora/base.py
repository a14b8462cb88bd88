"""What every reader of captions and photos produces: a `Corpus` with one split a photo, and a `Report`."""

import contextlib
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrnn.corpora.finder import PhotoFinder
from mrnn.corpora.splits import SPLITS, draw, seeded_split
from mrnn.files import read_text
from mrnn.images import IMAGE_SUFFIXES, PhotoFile, StoredPhoto

_ENDING = f"(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})"
LONGEST = 10_000  # characters of a caption
HELD_OUT = "no dev split is given: 1 in 20 train photos is held out"


def is_text(text: str) -> bool:
    """Whether it can be written: JSON can hold one half of a character that takes two."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_captions_file(path: Path) -> str:
    """Read a text file in which one line stands for itself: a few that are no UTF-8 do not spoil the others.

    Their bytes become surrogates, so that `CorpusBuilder.caption` counts and leaves out such a caption.

    Raises:
        ValueError: More than one line in ten is not UTF-8; the message names the first.
    """
    try:
        return read_text(path)
    except ValueError:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        lines = text.split("\n")
        if 10 * sum(not is_text(line) for line in lines) > len(lines):
            raise
        return text.removeprefix("\ufeff")


@dataclass(frozen=True)
class Photo:
    """One photo and its captions.

    Args:
        id: Its name within the data set.
        path: The file, or where in a larger file it lies.
        captions: One sentence or more, as written.
        split: `train`, `dev`, `test`, or empty if it is in none.
        key: The same for the same photo in another data set.
    """

    id: str
    path: PhotoFile
    captions: tuple[str, ...]
    split: str
    key: str


@dataclass(frozen=True)
class PackedPhoto(StoredPhoto):
    """A photo whose bytes lie as they are, in one piece, within a larger file.

    Args:
        offset: Of its first byte.
    """

    size: int
    offset: int

    def read_bytes(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class Report:
    """What was wrong with a data set's files: counts and a few examples of each kind."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, example: str) -> None:
        """Count one more of a kind, and keep the first three as examples, a line each."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < 3:
            self.examples[kind].append(" ".join(example.splitlines()))

    def lines(self) -> Iterator[str]:
        """One line a kind, for people."""
        yield from self.notes
        for kind, n in self.counts.items():
            more = ", ..." if n > len(self.examples[kind]) else ""
            yield f"{kind}: {n:,} ({', '.join(self.examples[kind])}{more})"


@dataclass(frozen=True)
class Corpus:
    """A data set on disk.

    Args:
        name: Of the layout and folder, for people.
        photos: All that have a file and a caption.
        report: What was left out and why.
        held_out: Ids of the train photos that make up dev, where the data set gives none.
    """

    name: str
    photos: tuple[Photo, ...]
    report: Report
    held_out: frozenset[str] = frozenset()

    def split(self, name: str) -> list[Photo]:
        """The photos of a split.

        Raises:
            ValueError: There are none.
        """
        photos = [photo for photo in self.photos if photo.split == name]
        if not photos:
            there = sorted({photo.split for photo in self.photos if photo.split})
            raise ValueError(f"{self.name} has no photo in the split {name!r}; it has {', '.join(there) or 'no split'}")
        return photos

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, splits and captions."""
        rows = sorted((p.id, p.split, *p.captions) for p in self.photos)
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()

    def summary(self) -> str:
        """One line: what was recognised and how much of it there is."""
        counts = ", ".join(f"{sum(p.split == s for p in self.photos):,} {s}" for s in SPLITS)
        captions = sum(len(p.captions) for p in self.photos)
        return f"{self.name}: {len(self.photos):,} photos ({counts}), {captions:,} captions"


def photo_key(path: PhotoFile, flickr: bool = False) -> str:
    """The identity of a photo across data sets: COCO's and Flickr's numbers where the name has one.

    Args:
        path: The photo.
        flickr: Whether it comes from Flickr, so that even a short number is Flickr's; photos elsewhere are called
            `10001.jpg` too.
    """
    name = path.name
    if match := re.fullmatch(rf"(?:COCO_\w+_)?(\d{{12}}){_ENDING}", name):
        return f"coco:{int(match[1])}"
    match = re.fullmatch(rf"([1-9]\d{{4,10}})(_[0-9a-f]{{10}})?{_ENDING}", name)
    if match and (flickr or match[2] or len(match[1]) > 6):
        return f"flickr:{match[1]}"
    return str(path.resolve())


class CorpusBuilder:
    """Collects captions and splits in any order, then checks them against the photos on disk.

    Args:
        name: Of the corpus.
        folder: Of the data set.
        images: Folders in which photos are looked for, besides the data set's own.
        flickr: Whether the photos' numbers may be Flickr's; see `photo_key`.
    """

    def __init__(self, name: str, folder: Path, images: Sequence[Path] = (), flickr: bool = False):
        self.name, self.folder, self.images, self.flickr = name, folder, images, flickr
        self.report = Report()
        self._captions: dict[str, list[str]] = defaultdict(list)
        self._splits: dict[str, str] = {}
        self._stored: dict[str, StoredPhoto] = {}
        self._keys: set[str] = set()

    def photo(self, photo: StoredPhoto, name: str = "") -> str:
        """Say where a photo lies that is no file of its own.

        Files that number their photos each on its own give one name to different photos. The same photo under the
        same name is one photo, so that it never falls into two splits.

        Args:
            photo: Within a file of the data set's folder.
            name: What the data set calls it, if anything.

        Returns:
            Its id: the name, or if it has none or another photo has it, file and member.
        """
        if name:
            first = self._stored.setdefault(name, photo)
            if first is photo or _same_content(first, photo):
                return name
        photo_id = f"{photo.file.relative_to(self.folder).as_posix()}/{photo.member}"
        self._stored[photo_id] = photo
        return photo_id

    def caption(self, photo_id: str, caption: str, key: str | None = None, where: str = "") -> None:
        """Add a caption; one that cannot be used, or with a key that was there before, is counted and left out."""
        place = where or key or photo_id
        if key is not None and key in self._keys:
            self.report.add("duplicate keys", key)
        elif not caption.strip():
            self.report.add("empty captions", place)
        elif not any(map(str.isalnum, caption)):
            self.report.add("captions without a word", place)
        elif len(caption) > LONGEST:
            self.report.add(f"captions of more than {LONGEST:,} characters", place)
        elif not is_text(caption):
            self.report.add("captions that are no Unicode", place)
        else:
            if "\n" in caption.strip():  # a quotation mark that is not closed takes in all lines after it
                self.report.add("captions of several lines", place)
            self._captions[photo_id].append(" ".join(caption.split()))
        if key is not None:
            self._keys.add(key)

    def split(self, photo_id: str, split: str) -> None:
        """Put a photo into a split.

        Raises:
            ValueError: It is in another one already.
        """
        before = self._splits.setdefault(photo_id, split)
        if before != split:
            raise ValueError(f"{self.folder}: the photo {photo_id} is in both {before or 'none'} and {split or 'none'}")

    def build(self) -> Corpus:
        """Check, split what is in no split at all, and hold out a dev split if there is none.

        Raises:
            ValueError: No photo with a caption is left.
        """
        finder = PhotoFinder(self.folder, self.images)
        files = self._files(finder)
        if not any(self._splits.values()):
            self.report.notes.append("no split is given: drawn by photo, 80 / 10 / 10")
            self._splits = {photo_id: seeded_split(photo_id) for photo_id in self._captions}
        photos = []
        for photo_id, path in files.items():
            captions, split = self._captions.get(photo_id, []), self._splits.get(photo_id, "")
            if path is None:
                if photo_id in self._splits:
                    self.report.add("missing photos", photo_id)
                for _ in captions:
                    self.report.add("captions of absent photos", photo_id)
            elif not captions:
                self.report.add("photos without captions", photo_id)
            else:
                photos.append(Photo(photo_id, path, tuple(captions), split, photo_key(path, self.flickr)))
        if None in files.values():
            where = ", ".join(map(str, finder.folders))
            self.report.notes.append(f"photos were looked for in {where}, and by name alone in the folders below")
        for name, paths in finder.ambiguous.items():
            self.report.add("names that fit several photos", f"{name}: {' or '.join(map(str, paths[:3]))}")
        for path in self._uncaptioned((path for path in files.values() if isinstance(path, Path)), finder.folders):
            self.report.add("photos without captions", path.name)
        photos = _one_split_each(_apart(photos), self.report)
        if not photos:
            reasons = "; ".join(self.report.lines())
            raise ValueError(f"{self.folder}: {self.name} layout, but no photo with a caption is left ({reasons})")
        if n := sum(not photo.split for photo in photos):
            self.report.notes.append(f"photos in no split: {n:,}")
        held_out: set[str] = set()
        if not any(photo.split == "dev" for photo in photos):
            self.report.notes.append(HELD_OUT)
            draws = sorted((draw(p.id, "dev"), p.id) for p in photos if p.split == "train")
            held_out = {photo_id for _, photo_id in draws[: max(1, len(draws) // 20)] if len(draws) > 1}
            photos = [replace(p, split="dev") if p.id in held_out else p for p in photos]
        return Corpus(self.name, tuple(photos), self.report, frozenset(held_out))

    def _files(self, finder: PhotoFinder) -> dict[str, PhotoFile | None]:
        """Every photo's file; a further name of a file (`./a.jpg`) leaves what it has to the first (`a.jpg`)."""
        photo_ids = dict.fromkeys([*self._captions, *self._splits])
        found = finder.find({p: self._splits.get(p, "") for p in photo_ids if p not in self._stored})
        files: dict[str, PhotoFile | None] = {}
        names: dict[str, str] = {}
        for photo_id in photo_ids:
            path = self._stored.get(photo_id) or found[photo_id]
            name = photo_id
            if isinstance(path, Path):
                name = names.setdefault(os.path.normpath(path.absolute()), photo_id)
            if name == photo_id:
                files[photo_id] = path
                continue
            self._captions[name] += self._captions.pop(photo_id, [])
            if photo_id in self._splits:
                self.split(name, self._splits.pop(photo_id))
        return files

    def _uncaptioned(self, known: Iterable[Path], images: Iterable[Path]) -> Iterator[Path]:
        """Photos beside the known ones, and in folders of photos, that neither captions nor lists speak of."""
        names = {os.path.normpath(path.absolute()) for path in known}
        beside = {Path(name).parent for name in names}
        home = Path(os.path.normpath(self.folder.absolute()))
        folders = {folder for folder in beside if folder.is_relative_to(home)}
        folders |= {Path(os.path.normpath(f.absolute())) for f in images if f != self.folder}
        for folder in sorted(folders):
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in IMAGE_SUFFIXES and str(path) not in names and path.is_file():
                    yield path


def _same_content(one: PhotoFile, other: PhotoFile) -> bool:
    if isinstance(one, StoredPhoto) and isinstance(other, StoredPhoto) and one.size != other.size:
        return False
    with contextlib.suppress(OSError):
        return one.read_bytes() == other.read_bytes()
    return False


def _apart(photos: list[Photo]) -> list[Photo]:
    """The photos; of those whose folders number them each on its own, the number is no key."""
    first: dict[tuple[str, str], Photo] = {}
    apart = set()
    for photo in photos:
        known = first.setdefault((photo.key, photo.path.name), photo)
        if known is not photo and not _same_content(known.path, photo.path):
            apart |= {known.id, photo.id}
    return [replace(photo, key=str(photo.path.resolve())) if photo.id in apart else photo for photo in photos]


def _one_split_each(photos: Iterable[Photo], report: Report) -> list[Photo]:
    """The photos, but one that is in several splits only in the strictest: test before dev before train."""
    photos, strictness = list(photos), ("", *SPLITS).index
    strictest: dict[str, int] = defaultdict(int)
    for photo in photos:
        strictest[photo.key] = max(strictest[photo.key], strictness(photo.split))
    kept = []
    for photo in photos:
        if strictness(photo.split) == strictest[photo.key]:
            kept.append(photo)
        else:
            report.add(f"{photo.split or 'further'} photos that another split holds", photo.id)
    return kept


def _whole(corpus: Corpus) -> Corpus:
    """With what was held out as dev in train again."""
    notes = [note for note in corpus.report.notes if note != HELD_OUT]
    photos = (replace(p, split="train") if p.id in corpus.held_out else p for p in corpus.photos)
    return replace(corpus, photos=tuple(photos), report=replace(corpus.report, notes=notes), held_out=frozenset())


def combine(corpora: list[Corpus]) -> Corpus:
    """Several data sets as one; a photo that is in dev or test of any of them is in no other split.

    What was held out as dev of one that gives none is trained on, if another gives one.
    """
    if len(corpora) == 1:
        return corpora[0]
    if not all(corpus.held_out for corpus in corpora):
        corpora = [_whole(corpus) for corpus in corpora]
    report = Report()
    for corpus in corpora:
        for kind, n in corpus.report.counts.items():
            report.counts[kind] += n
            report.examples[kind] += corpus.report.examples[kind]
        report.notes += [f"{corpus.name}: {note}" for note in corpus.report.notes]
    photos = _one_split_each((photo for corpus in corpora for photo in corpus.photos), report)
    return Corpus(" + ".join(corpus.name for corpus in corpora), tuple(photos), report)
