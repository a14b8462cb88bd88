"""COCO's own `captions_train*.json` and `captions_val*.json`; the photos of `val` become dev."""

from pathlib import Path

from mrnn.corpora.base import Corpus, CorpusBuilder, image_folders, normal_split
from mrnn.files import read_json


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")])


def recognises(folder: Path) -> bool:
    """Whether the folder holds a `captions_*.json`, itself or under `annotations`."""
    return bool(_files(folder))


def read(folder: Path) -> Corpus:
    """Read every annotation file of the folder.

    Raises:
        ValueError: A file has another layout.
    """
    builder = CorpusBuilder("COCO", folder, image_folders(folder))
    for path in _files(folder):
        content = read_json(path)
        try:
            names = {image["id"]: image["file_name"] for image in content["images"]}
            annotations = [(a.get("id"), a["image_id"], a["caption"]) for a in content["annotations"]]
            if not all(isinstance(name, str) for name in names.values()):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: has no 'images' and 'annotations' in COCO's layout") from None
        split = normal_split(path.stem.removeprefix("captions_").rstrip("0123456789"))
        for name in names.values():
            builder.split(name, split)
        for caption_id, image_id, caption in annotations:
            if not isinstance(image_id, int | str) or not isinstance(caption, str):
                builder.report.add("broken entries", f"{path.name} caption {caption_id}")
            elif image_id in names:
                key = None if caption_id is None else f"{path.name} caption {caption_id}"
                builder.caption(names[image_id], caption, key=key)
            else:
                builder.report.add("captions of absent photos", f"image id {image_id}")
    return builder.build()
