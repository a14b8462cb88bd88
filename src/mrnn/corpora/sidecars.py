"""Photos with a file of the same name beside each: `a.jpg` and `a.txt`, `a.caption` (kohya) or `a.json` (img2dataset).

`a.jpg.txt` is such a file too.

A text file has a caption a line; a `.json` is a caption, a list of them, or an object with a caption column. The split
is in the name of a sub-folder.
"""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.finder import is_photo, walk
from mrnn.corpora.splits import split_of_folder
from mrnn.corpora.table import captions_in
from mrnn.files import unicode_encoding

SUFFIXES = (".txt", ".caption", ".json")  # the first that is there is read


def recognises(folder: Path) -> bool:
    """Whether a photo in the folder, or in those below, has a file of captions beside it."""
    return any(_suffix(names) for _, _, names in _samples(folder))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read the captions beside each photo; a file that belongs to several photos is counted and left out.

    Raises:
        ValueError: No photo with a caption is left.
    """
    builder = CorpusBuilder("photos with captions beside them", folder, images)
    for place, photos, names in _samples(folder):
        suffix = _suffix(names)
        if suffix is None:
            continue
        path = place / names[suffix]
        where = path.relative_to(folder).as_posix()
        if len(photos) > 1:
            builder.report.add("captions of several photos", f"{where}: {', '.join(photos)}")
            continue
        photo_id = (place / photos[0]).relative_to(folder).as_posix()
        builder.split(photo_id, split_of_folder(place, folder))
        try:
            captions = captions_of(path.read_bytes(), suffix)
        except (OSError, ValueError, RecursionError):
            captions = []
        if not captions:
            builder.report.add("broken captions", where)
        for caption in captions:
            builder.caption(photo_id, caption, where=where)
    return builder.build()


def captions_of(content: bytes, suffix: str) -> list[str]:
    """The captions in a file beside a photo; none if it holds anything else.

    Raises:
        ValueError: It is not UTF-8 or UTF-16, or not JSON.
        RecursionError: It is nested too deep.
    """
    text = content.decode(unicode_encoding(content))
    if suffix != ".json":
        return [line for line in text.split("\n") if line.strip()] or [""]
    value = json.loads(text)
    return captions_in(value if isinstance(value, dict) else {"caption": value})


def _suffix(names: dict[str, str]) -> str | None:
    return next((suffix for suffix in SUFFIXES if suffix in names), None)


def _samples(folder: Path) -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """Of every name in a folder the folder, the photos so called, and the other files so called by their suffix."""
    for place, files in walk(folder):
        samples = defaultdict(lambda: ([], {}))
        for file in files:
            path = Path(unicodedata.normalize("NFC", file))
            if is_photo(file):
                samples[path.stem][0].append(file)
            else:
                samples[Path(path.stem).stem if is_photo(path.stem) else path.stem][1][path.suffix.lower()] = file
        yield from ((place, photos, others) for photos, others in samples.values() if photos)
