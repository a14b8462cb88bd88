"""COCO's own `captions_train*.json` and `captions_val*.json`, and others of their layout; `val` becomes dev."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.splits import split_in
from mrnn.files import read_json

_LIMIT = 1 << 16
_OTHERS = ("captions.json", "*_captions.json", "*.coco.json")  # whose content must say so


def _files(folder: Path) -> list[Path]:
    places = (folder, folder / "annotations")
    others = {path for place in places for pattern in _OTHERS for path in place.glob(pattern) if has_layout(path)}
    return sorted({*others, *(path for place in places for path in place.glob("captions_*.json"))})


def has_layout(path: Path) -> bool:
    """Whether a file begins as COCO's do."""
    with path.open("rb") as file:
        start = file.read(_LIMIT)
    named = b'"images"' in start and b'"file_name"' in start
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and (named or b'"image_id"' in start)


def recognises(folder: Path) -> bool:
    """Whether the folder holds a `captions_*.json`, or another of the layout, itself or under `annotations`."""
    return bool(_files(folder))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every annotation file of the folder.

    Raises:
        ValueError: A file has another layout.
    """
    return read_files(CorpusBuilder("COCO", folder, images), {path: split_in(path.stem) for path in _files(folder)})


def read_files(builder: CorpusBuilder, splits: Mapping[Path, str]) -> Corpus:
    """Read annotation files, each of the photos of a split.

    Raises:
        ValueError: A file has another layout.
    """
    for path, split in splits.items():
        _read_annotations(path, split, builder)
    return builder.build()


def _read_annotations(path: Path, split: str, builder: CorpusBuilder) -> None:
    """Read one file `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

    An entry of another form is counted, and so are captions that are marked as rejected or as canned (VizWiz).

    Raises:
        ValueError: The file as a whole has another layout.
    """
    content = read_json(path)
    images, annotations = (
        content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")
    )
    if not isinstance(images, list) or not isinstance(annotations, list | None):
        raise ValueError(f"{path}: has no 'images' and 'annotations' in COCO's layout")
    names = _names(path, images, builder)
    for name in names.values():
        if name:
            builder.split(name, split)
    for number, annotation in enumerate(annotations or ()):
        try:
            caption_id, image_id, caption = annotation.get("id"), annotation["image_id"], annotation["caption"]
            name = names.get(str(image_id))
            if not isinstance(caption, str) or not isinstance(image_id, int | str):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            builder.report.add("broken entries", f"{path.name} annotation {number}")
            continue
        where = f"{path.name} caption {number if caption_id is None else caption_id}"
        if annotation.get("is_rejected"):
            builder.report.add("rejected captions", where)
        elif annotation.get("is_precanned"):
            builder.report.add("canned captions", where)
        elif name is None:
            builder.report.add("captions of absent photos", f"image id {image_id}")
        elif not name:
            builder.report.add("captions of an id that two photos have", where)
        else:
            builder.caption(name, caption, key=None if caption_id is None else where)


def _names(path: Path, images: list, builder: CorpusBuilder) -> dict[str, str]:
    """Photos by their id; an id that two of them have stands for none and is empty."""
    names: dict[str, str] = {}
    for number, image in enumerate(images):
        try:
            image_id, name = image["id"], image["file_name"]
            if not isinstance(name, str) or not name.strip() or not isinstance(image_id, int | str):
                raise TypeError
        except (KeyError, TypeError):
            builder.report.add("broken entries", f"{path.name} image {number}")
            continue
        if names.setdefault(str(image_id), name) != name:
            names[str(image_id)] = ""
    return names
