"""IAPR TC-12: one Latin-1, almost-XML annotation file a photo, and lists of the train and test photos.

`annotations_complete_eng/00/112.eng` describes `images/00/112.jpg`. Each phrase of the description, ended by
a semicolon, is one caption. The lists (17,665 train and 1,962 test in the paper) are `*train*.txt` and
`*test*.txt`, lines of `00/112`, with or without folder and ending.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.splits import normal_split
from mrnn.files import read_text

_FIELD = re.compile(r"<(DOCNO|TITLE|DESCRIPTION|NOTES|LOCATION|DATE|IMAGE|THUMBNAIL)>(.*?)</\1>", re.S)


def _annotations(folder: Path) -> Path | None:
    return next((f for f in sorted(folder.glob("annotations*")) if f.is_dir() and any(f.glob("*/*.eng"))), None)


def recognises(folder: Path) -> bool:
    """Whether the folder holds `annotations*/*/*.eng`."""
    return _annotations(folder) is not None


def read_annotation(path: Path) -> dict[str, str]:
    """The fields of one annotation file by their upper-case names."""
    content = path.read_bytes().decode("latin-1")
    return {name: html.unescape(" ".join(value.split())) for name, value in _FIELD.findall(content)}


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every annotation file and the lists."""
    annotations = _annotations(folder)
    assert annotations is not None
    builder = CorpusBuilder("IAPR TC-12", folder, images)
    for path in sorted(annotations.glob("*/*.eng")):
        fields = read_annotation(path)
        where = f"{path.parent.name}/{path.name}"
        if "IMAGE" not in fields or "DESCRIPTION" not in fields:
            builder.report.add("broken annotations", where)
            continue
        phrases = [phrase for phrase in fields["DESCRIPTION"].split(";") if phrase.strip()]
        for phrase in phrases or [""]:
            builder.caption(fields["IMAGE"], phrase, where=where)
    for split in ("train", "dev", "val", "test"):
        for path in sorted(folder.glob(f"*{split}*.txt")):
            for line in read_text(path).splitlines():
                if match := re.search(r"(\d+)/(\d+)", line):
                    builder.split(f"images/{match[1]}/{match[2]}.jpg", normal_split(split))
                elif line.strip():
                    builder.report.add("broken lines", f"{path.name}: {line.strip()[:40]}")
    return builder.build()
