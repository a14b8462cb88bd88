"""WebDataset shards: tar files in which the members `KEY.jpg` and `KEY.txt`, or `KEY.json`, are one sample.

A shard is read once, from front to end and past the photos, of which only the place is kept. Nothing is unpacked, so a
member's path is no more than a name. A `.txt` has a caption a line; a `.json` is a caption, a list of them, or an
object with a caption column. The split is in the name of the shard or of a sub-folder.
"""

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder, PackedPhoto, Report
from mrnn.corpora.sidecars import captions_of
from mrnn.corpora.splits import split_of_file
from mrnn.images import IMAGE_SUFFIXES

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_MEMBER = re.compile(r"(?:\./)?((?:.*/)?[^./]+)(\.[^/]+)")  # a sample's key ends at the first dot of the file's name
_LIMIT = 1 << 20


@dataclass
class _Sample:
    photo: PackedPhoto | None = None
    captions: dict[str, list[str]] = field(default_factory=dict)  # by ending


def recognises(place: Path) -> bool:
    """Whether the folder, or its sub-folders, hold shards; or it is a shard, or a pattern such as `{000..146}.tar`."""
    return bool(_shards(place)) if place.is_dir() else place.name.endswith(SUFFIXES)


def read(place: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every shard; of one that is cut short, the whole samples before the cut.

    Raises:
        ValueError: A shard is not there, or compressed.
    """
    shards = _shards(place)
    folder = place if place.is_dir() else Path(os.path.commonpath([shard.parent for shard in shards]))
    builder = CorpusBuilder(f"WebDataset ({len(shards)} shard{'s' * (len(shards) > 1)})", folder, images)
    for shard in shards:
        split = split_of_file(shard, folder)
        for key, sample in _samples(shard, builder.report).items():
            where = f"{shard.name}/{key}"
            captions = sample.captions.get(".txt") or sample.captions.get(".json")
            if sample.photo is None:
                builder.report.add("samples without a photo", where)
            elif not captions:
                builder.report.add("photos without captions", where)
            else:
                photo_id = builder.photo(sample.photo, f"{key}{Path(sample.photo.member).suffix}")
                builder.split(photo_id, split)
                for caption in captions:
                    builder.caption(photo_id, caption, where=where)
    return builder.build()


def _shards(place: Path) -> list[Path]:
    if not place.is_dir():
        return sorted({Path(path) for path in _expand(str(place))})
    return sorted(path for where in ("*", "*/*") for suffix in SUFFIXES for path in place.glob(where + suffix))


def _expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for: `{000..146}` counts, `{train,val}` lists."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    choices = match[1].split(",")
    if ends := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        choices = [f"{n:0{len(ends[1])}}" for n in range(int(ends[1]), int(ends[2]) + 1)]
    return [path for choice in choices for path in _expand(pattern[: match.start()] + choice + pattern[match.end() :])]


def _samples(shard: Path, report: Report) -> dict[str, _Sample]:
    """A shard's samples by their keys."""
    samples: dict[str, _Sample] = defaultdict(_Sample)
    if not shard.is_file():
        raise ValueError(f"{shard}: no such shard")
    with shard.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise ValueError(f"{shard}: gzip-compressed, so its photos cannot be reached one by one; gunzip it first")
        file.seek(0)
        length, end = shard.stat().st_size, 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > length:
                        break
                    if member.isreg() and not member.issparse():
                        _add(samples, shard, member, file, report)
                    end = tar.offset
        except (tarfile.TarError, ValueError):  # a damaged header makes tarfile raise either
            pass
        # tarfile takes a header that it cannot read for the end; the end proper is a block of zeros.
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            report.add("shards cut short or damaged", f"{shard.name} at byte {end:,}")
    return samples


def _add(samples: dict[str, _Sample], shard: Path, member: tarfile.TarInfo, file, report: Report) -> None:
    match = _MEMBER.fullmatch(member.name)
    if match is None:
        return
    key, ending = match[1], match[2].lower()
    sample, where = samples[key], f"{shard.name}/{member.name}"
    if ending in IMAGE_SUFFIXES:
        if sample.photo is not None:
            report.add("duplicate keys", where)
            return
        sample.photo = PackedPhoto(shard, member.name, member.size, member.offset_data)
    elif ending in (".txt", ".json"):
        if ending in sample.captions:
            report.add("duplicate keys", where)
            return
        try:
            if member.size > _LIMIT:
                raise ValueError
            file.seek(member.offset_data)
            sample.captions[ending] = captions_of(file.read(member.size), ending)
        except (ValueError, RecursionError):
            report.add("broken captions", where)
