"""COCO's own `captions_train*.json` and `captions_val*.json`; the photos of `val` become dev."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder
from mrnn.corpora.splits import normal_split
from mrnn.files import read_json


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])


def recognises(folder: Path) -> bool:
    """Whether the folder holds a `captions_*.json`, itself or under `annotations`."""
    return bool(_files(folder))


def read(folder: Path, images: Sequence[Path] = ()) -> Corpus:
    """Read every annotation file of the folder.

    Raises:
        ValueError: A file has another layout.
    """
    files = _files(folder)
    splits = {path: normal_split(path.stem.removeprefix("captions_").rstrip("0123456789")) for path in files}
    return read_files(CorpusBuilder("COCO", folder, images), splits)


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
            name = names.get(image_id)
            if not isinstance(caption, str):
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


def _names(path: Path, images: list, builder: CorpusBuilder) -> dict[int | str, str]:
    """Photos by their id; an id that two of them have stands for none and is empty."""
    names: dict[int | str, str] = {}
    for number, image in enumerate(images):
        try:
            image_id, name = image["id"], image["file_name"]
            if not isinstance(name, str) or not name.strip() or not isinstance(image_id, int | str):
                raise TypeError
        except (KeyError, TypeError):
            builder.report.add("broken entries", f"{path.name} image {number}")
            continue
        if names.setdefault(image_id, name) != name:
            names[image_id] = ""
    return names
