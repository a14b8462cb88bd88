"""Verbs about the photo library: index, search, export."""

from datetime import date
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mrnn.cli.console import Device, Json, Usage, as_json, bar, open_model, say, warn

Place = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: your data folder, or $MRNN_LIBRARY)")]


def _open(library: Path | None, model: str, device: str, rebuild: bool = False, make: bool = False):
    from mrnn.library import Library, default_library

    place = library or default_library()
    if not make and not (place / "library.json").is_file():
        raise ValueError(f"{place}: there is no photo library; run mrnn index FOLDER first")
    return Library(place, open_model(model, device), rebuild)


def index(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")],
    /,
    library: Place = None,
    model: str = "base",
    rebuild: bool = False,
    device: Device = "auto",
) -> int:
    """Encode and caption what is new in a folder of photos, and forget what is gone.

    Args:
        folder: Folder of photos; those in folders below it are indexed too.
        library: Folder of the library; nothing is written anywhere else.
        model: Bundled model, folder or hub name.
        rebuild: Encode all photos anew if the library is of another model.
        device: Where to compute.
    """
    from mrnn.tasks.familiarity import GUESS

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    photos = _open(library, model, device, rebuild, make=True)
    with bar("indexing") as advance:
        report = photos.index(folder, advance)
    for error in report.errors:
        warn(f"left out {error}")
    print(
        f"{photos.folder}: {len(photos):,} photos ({report.added:,} new, {report.recognised:,} renamed or copied, "
        f"{report.removed:,} gone, {report.unchanged:,} unchanged)"
    )
    if report.unfamiliar:
        warn(f"{report.unfamiliar:,} of the new photos are {GUESS}; mrnn search and mrnn caption name them")
    return 1 if report.errors else 0


def search(
    query: Annotated[Positional[str], arg(metavar="SENTENCE|PHOTO")] = "",
    /,
    like: Annotated[Path | None, arg(metavar="PHOTO")] = None,
    library: Place = None,
    model: str = "base",
    top: int = 20,
    folder: Path | None = None,
    after: str = "",
    before: str = "",
    caption: str = "",
    paths: bool = False,
    sheet: Annotated[Path | None, arg(metavar="PNG")] = None,
    json: Json = False,
    device: Device = "auto",
) -> int:
    """Find photos of the library by a sentence, by a photo, or by both; lines of PHOTO, score, caption.

    Args:
        query: A sentence, or a photo to which the photos found are alike.
        like: A photo to which the photos found are alike, beside fitting the sentence.
        library: Folder of the library.
        model: The model that the library was indexed with.
        top: How many to print.
        folder: Only photos in this folder or below it.
        after: Only photos taken on this day (2024-12-31) or later.
        before: Only photos taken on this day or earlier.
        caption: Only photos whose captions hold this text.
        paths: Print paths alone, for pipes.
        sheet: Draw the photos found into this picture.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    from mrnn.corpora.base import IMAGE_SUFFIXES
    from mrnn.library import Filters
    from mrnn.tasks.familiarity import GUESS

    sentence: str | None = query or None
    if sentence is not None and Path(sentence).suffix.lower() in IMAGE_SUFFIXES and Path(sentence).is_file():
        if like is not None:
            raise Usage("give one photo: either as the query or by --like")
        sentence, like = None, Path(sentence)
    if sentence is None and like is None:
        raise Usage("give a sentence or a photo to search for")
    if top < 1:
        raise Usage("--top must be 1 or more")
    filters = Filters(folder, _day("--after", after), _day("--before", before), caption)
    photos = _open(library, model, device)
    if not len(photos):
        raise ValueError(f"{photos.folder}: the library holds no photo; run mrnn index FOLDER first")
    found = photos.search(sentence, like, top, filters)
    for photo in found:
        if json:
            fields = {"photo": str(photo.path), "score": photo.score, "caption": photo.caption, "taken": photo.taken}
            print(as_json({**fields, "familiar": photo.familiar}))
        else:
            print(photo.path if paths else f"{photo.path}\t{photo.score:.2f}\t{photo.caption}")
            if not photo.familiar:
                warn(f"{photo.path}: {GUESS}")
    if not found:
        say("no photo passes the filters")
    if sheet is not None and found:
        from mrnn.draw import draw_sheet

        thumbnails = [photos.thumbnail(photo.path) for photo in found]
        titles = [f"{photo.score:.1f}  {photo.caption}" for photo in found]
        draw_sheet(thumbnails, titles, sentence or f"like {like}", sheet)
    return 0


def _day(flag: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Usage(f"{flag} {text}: not a day; write it as 2024-12-31") from None


def export(
    file: Annotated[Positional[Path | None], arg(metavar="FILE")] = None,
    /,
    sidecars: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    overwrite: bool = False,
    library: Place = None,
    model: str = "base",
    device: Device = "auto",
) -> int:
    """Write the library's captions out, for people and programs that need alternative text.

    Args:
        file: Of the captions of all photos: .csv or .jsonl.
        sidecars: Write a text file beside every photo in this folder and below it, photo.jpg.txt.
        overwrite: Replace such files also where they say something else, as one of your own may.
        library: Folder of the library.
        model: The model that the library was indexed with.
        device: Where to compute.
    """
    if (file is None) == (sidecars is None):
        raise Usage("give either a file, .csv or .jsonl, or --sidecars FOLDER")
    if overwrite and sidecars is None:
        raise Usage("--overwrite goes with --sidecars")
    photos = _open(library, model, device)
    n, left = (photos.export(file), []) if file is not None else photos.export_sidecars(sidecars or Path(), overwrite)
    for path in left:
        warn(f"left {path}: it says something else (--overwrite replaces it)")
    print(f"{file or sidecars}: captions of {n:,} photos")
    return 1 if left else 0
