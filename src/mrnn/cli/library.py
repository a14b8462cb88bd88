"""Verbs about the photo library: index, search, duplicates, forget, export."""

from datetime import date
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from mrnn.cli.console import (
    Device,
    Json,
    Null,
    Tolerant,
    Usage,
    as_json,
    bar,
    open_model,
    print_row,
    say,
    visible,
    warn,
)

Place = Annotated[
    str | None, arg(metavar="DIR|s3://...", help_behavior_hint="(default: your data folder, or $MRNN_LIBRARY)")
]


def _open(
    library: str | None,
    model: str,
    device: str | None,
    rebuild: bool = False,
    make: bool = False,
    searched: bool = False,
    tolerant: bool = False,
):
    from mrnn.library import Library, default_library, place_of

    place = place_of(library or default_library())
    if not make and not place.has("library.json"):
        raise ValueError(f"{place}: there is no photo library; run mrnn index FOLDER first")
    pipeline = open_model(model, device, tolerant=tolerant)
    if searched:
        pipeline.model.prepare("search")
    return Library(str(place), pipeline, rebuild)


def _waiting(who: str) -> None:
    say(f"mrnn: the library is being written by {who}; waiting for it")


def index(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER|LIST")],
    /,
    library: Place = None,
    model: str = "base",
    rebuild: bool = False,
    exclude: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="GLOB", help_behavior_hint="(repeatable)")] = (),
    retry: bool = False,
    prune: bool = False,
    no_links: bool = False,
    tolerant: Tolerant = False,
    ray: Annotated[tuple[()] | tuple[str] | None, arg(metavar="[ADDRESS]", help_behavior_hint="")] = None,
    device: Device = None,
) -> int:
    """Encode and caption what is new in a folder of photos, and forget what is gone.

    Args:
        folder: Folder of photos; those in folders below it are indexed too. Or a list (.txt, .lst) of photos and
            folders, one a line, as `mrnn caption --files-from` takes.
        library: Folder of the library, or a place in object storage; nothing is written anywhere else.
        model: Bundled model, folder or hub name.
        rebuild: Encode all photos anew if the library is of another model.
        exclude: Names, or paths below the folder, that are passed over, such as '*.png' or 'private/*'.
        retry: Try damaged photos again too, although their files have not changed.
        no_links: Pass symbolic links over; else they are followed, also out of the folder.
        prune: Take photos that are gone out of the library, even if more than half of the folder's are.
        tolerant: Of truncated photos take what there is, also of those that were left out before.
        ray: Index by many processes, one a core: on this machine, or on the Ray cluster with this address.
        device: Where to compute.
    """
    from mrnn.library import is_list

    folder = folder.expanduser()
    make = folder.is_dir() or is_list(folder)
    photos = _open(library, model, device, rebuild, make, tolerant=tolerant)
    with bar("indexing") as advance:
        report = photos.index(
            folder,
            advance,
            exclude=exclude,
            retry=retry or tolerant,
            prune=prune,
            links=not no_links,
            waiting=_waiting,
            ray=None if ray is None else "".join(ray),
        )
    for error in report.errors:
        warn(f"left out {error}")
    for kind, n in sorted(report.passed.items()):
        say(f"passed over {n:,} {kind}")
    did = f"{report.added:,} new, {report.recognised:,} renamed or copied, {report.removed:,} gone"
    print(f"{visible(str(photos.place))}: {len(photos):,} photos ({did}, {report.unchanged:,} unchanged)")
    if report.guesses:
        warn(f"{report.guesses:,} captions of new photos are no more than a guess; mrnn search names them")
    if report.kept:
        warn(
            f"{folder}: {report.kept:,} of its photos are gone, more than half: is a drive away? "
            "They stay in the library (--prune takes them out)"
        )
    return 1 if report.errors or report.kept else 0


def forget(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER|PHOTO")],
    /,
    library: Place = None,
    model: str = "base",
    device: Device = None,
) -> int:
    """Take the photos of a folder out of the library; no photo is touched.

    Args:
        folder: Folder or photo; it need not be there any more.
        library: Folder of the library.
        model: The model that the library was indexed with.
        device: Where to compute.
    """
    photos = _open(library, model, device)
    n = photos.forget(folder, _waiting)
    if not n:
        raise ValueError(f"{folder}: the library has no photo of it")
    print(f"{visible(str(photos.place))}: {len(photos):,} photos ({n:,} files forgotten)")
    return 0


def duplicates(library: Place = None, model: str = "base", json: Json = False, device: Device = None) -> int:
    """List the photos of the library that several files hold: their paths, and an empty line between two photos.

    Args:
        library: Folder of the library.
        model: The model that the library was indexed with.
        json: Print JSON, one list of paths a line.
        device: Where to compute.
    """
    several = _open(library, model, device).duplicates()
    for i, paths in enumerate(several):
        if json:
            print(as_json([str(path) for path in paths]))
        else:
            print("\n" * bool(i) + "\n".join(visible(str(path)) for path in paths))
    say(f"{len(several):,} photos are there more than once")
    return 0


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
    all: bool = False,
    paths: bool = False,
    null: Null = False,
    sheet: Annotated[Path | None, arg(metavar="PNG")] = None,
    json: Json = False,
    device: Device = None,
) -> int:
    """Find photos of the library by a sentence, by a photo, or by both; lines of PHOTO, score, caption.

    With filters alone, list photos by date, the newest first.

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
        all: Print also photos that speak against the sentence.
        paths: Print paths alone, for pipes.
        null: Names end with a zero byte.
        sheet: Draw the photos found into this picture.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    from mrnn.images import IMAGE_SUFFIXES
    from mrnn.library import Filters
    from mrnn.tasks.confidence import GUESS

    sentence: str | None = query or None
    if sentence is not None and Path(sentence).suffix.lower() in IMAGE_SUFFIXES:
        if like is not None:
            raise Usage("give one photo: either as the query or by --like")
        sentence, like = None, Path(sentence).expanduser()
        if not like.is_file():
            raise ValueError(f"{query}: no such photo; a sentence has no such ending")
    filters = Filters(folder, _day("--after", after), _day("--before", before), caption)
    if sentence is None and like is None and filters == Filters():
        raise Usage("give a sentence or a photo to search for, or a filter to list photos by")
    if top < 1:
        raise Usage("--top must be 1 or more")
    photos = _open(library, model, device, searched=sentence is not None)
    if not len(photos):
        raise ValueError(f"{photos.place}: the library holds no photo; run mrnn index FOLDER first")
    if sentence is not None and (unknown := photos.pipeline.unknown_words(sentence)):
        warn(f"the model does not know {', '.join(map(repr, unknown))}")
    ranked = photos.search(sentence, like, top, filters)
    found = ranked if all else [photo for photo in ranked if photo.fits]
    for photo in found:
        if json:
            fields = {"photo": str(photo.path), "score": photo.score, "caption": photo.caption}
            fields |= {"taken": photo.taken, "taken_from": photo.taken_from}
            places = [str(path) for path in photo.places]
            fields |= {"confidence": photo.confidence, "guess": photo.guess, "evidence": photo.evidence}
            print(as_json({**fields, "places": places}))
        else:
            first = f"{photo.score:.2f}" if sentence is not None or like is not None else photo.taken
            print_row(*([photo.path] if paths else [photo.path, first, photo.caption]), null=null)
            if photo.guess:
                warn(f"{photo.path}: {GUESS}")
    if not ranked:
        say("no photo passes the filters")
    elif len(found) < len(ranked):
        say(f"{_count(len(found))}; --all ranks the rest")
    if sheet is not None and found:
        from mrnn.draw import draw_sheet

        thumbnails = [photos.thumbnail_of(photo.id) for photo in found]
        titles = [f"{photo.score:.1f}  {photo.caption}" for photo in found]
        headline = sentence or (f"like {like}" if like is not None else "by date")
        draw_sheet(thumbnails, titles, headline, sheet)
    return 0


def _count(n: int) -> str:
    return "no photo fits" if not n else "1 photo fits" if n == 1 else f"{n:,} photos fit"


def _day(flag: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Usage(f"{flag} {text}: not a day; write it as 2024-12-31") from None


def export(
    file: Annotated[Positional[Path | None], arg(metavar="FILE")] = None,
    /,
    sidecars: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    xmp: bool = False,
    overwrite: bool = False,
    library: Place = None,
    model: str = "base",
    device: Device = None,
) -> int:
    """Write the library's captions out, for people and programs that need alternative text.

    Args:
        file: Of the captions of all photos: .csv or .jsonl.
        sidecars: Write a text file beside every photo in this folder and below it, photo.jpg.txt.
        xmp: Write these as XMP, photo.jpg.xmp, which digiKam, Lightroom and darktable read.
        overwrite: Replace such files also where they say something else, as one of your own may.
        library: Folder of the library.
        model: The model that the library was indexed with.
        device: Where to compute.
    """
    if (file is None) == (sidecars is None):
        raise Usage("give either a file, .csv or .jsonl, or --sidecars FOLDER")
    if (overwrite or xmp) and sidecars is None:
        raise Usage("--overwrite and --xmp go with --sidecars")
    photos = _open(library, model, device)
    if file is not None:
        n, left = photos.export(file.expanduser()), []
    else:
        assert sidecars is not None
        n, left = photos.export_sidecars(sidecars.expanduser(), overwrite, xmp)
    for path in left:
        warn(f"left {path}: it says something else (--overwrite replaces it)")
    print(f"{visible(str(file or sidecars))}: captions of {n:,} photos")
    return 1 if left else 0
