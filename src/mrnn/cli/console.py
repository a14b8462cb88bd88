"""What every verb shares: how it talks to people, and the types of common arguments."""

import contextlib
import json
import re
import shlex
import sys
import unicodedata
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

Photos = Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO|FOLDER", help_behavior_hint="")]
FilesFrom = Annotated[str, arg(metavar="FILE", help="A file of photos and folders, one a line; - for standard input.")]
Null = Annotated[
    bool,
    arg(aliases=("-0",), help="End names with a zero byte, in what is read and printed: for find -print0, xargs -0."),
]
Data = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="(required, repeatable)")]
Images = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="(repeatable)")]
Json = Annotated[bool, arg(help="Print JSON, one object a line.", help_behavior_hint="")]
Tolerant = Annotated[bool, arg(help="Of truncated photos take what there is.", help_behavior_hint="")]
PriorWeight = Annotated[
    float, arg(metavar="A", help="a of the score log P(w | I) - a log P(w), from 0 to 2; a matter of the use.")
]
Device = Annotated[
    str | None,
    arg(
        metavar="auto|cpu|cuda|mps",
        help="Where to compute.",
        help_behavior_hint="(default: auto, which says what it took)",
    ),
]
Hand = Annotated[
    Literal["auto", "onnx", "torch"], arg(help="What computes: ONNX Runtime or PyTorch; auto is the former if it can.")
]


if TYPE_CHECKING:
    from mrnn.pipeline import Described, Pipeline


class Usage(Exception):
    """A mistake in how a verb is called, which ends with exit code 2."""


def open_model(name: str, device: str | None = None, runtime: Hand = "auto", tolerant: bool = False) -> "Pipeline":
    """The model of a verb, which with `tolerant` takes of truncated photos what there is.

    Raises:
        Usage: The device is not to be had.
        ValueError: There is no such model, or it is damaged.
    """
    from mrnn.pipeline import load
    from mrnn.runtime import DeviceError

    if device not in (None, "auto", "cpu", "cuda", "mps") and not device.startswith("cuda:"):
        raise Usage(f"--device {device}: there are auto, cpu, cuda and mps")
    try:
        found = load(name, runtime, device or "auto")
    except DeviceError as error:
        raise Usage(f"--device {device}: {error}") from None
    say_device(device, str(found.model.device))
    if tolerant:
        found.encoder.tolerant = True
    return found


def weight_of_prior(given: float | None) -> float:
    """The weight that was asked for, or else the usual one.

    Raises:
        Usage: There is no such weight.
    """
    from mrnn.tasks.retrieval import PRIOR_WEIGHT

    if given is not None and not 0 <= given <= 2:
        raise Usage(f"--prior-weight is {given:g}, but must be between 0 and 2")
    return PRIOR_WEIGHT if given is None else given


def photos_of(given: Sequence[Path], files_from: str = "", null: bool = False) -> list[str]:
    """The photos that a verb is given, in the order given; of a folder all that are in it and below it.

    Args:
        given: Photos and folders.
        files_from: A file that names more of them, `-` for standard input.
        null: Whether its names end with a zero byte.

    Raises:
        Usage: Nothing is given.
        ValueError: A folder holds no photo.
        OSError: The file cannot be read.
    """
    from mrnn.library.walk import Walk, listed

    names = [str(path) for path in given]
    if files_from:
        content = sys.stdin.buffer.read() if files_from == "-" else Path(files_from).read_bytes()
        names += listed(content, null)
    elif not names:
        raise Usage("give at least one photo or folder, or --files-from FILE")
    photos = []
    for name in names:
        if not Path(name).is_dir():
            photos.append(name)
            continue
        walk = Walk(Path(name))
        found = [path for path, _ in walk]
        for error in walk.unread:
            warn(str(error))
        if not found and len(names) == 1:
            raise ValueError(f"{name}: holds no photo")
        for kind, n in sorted(walk.passed.items()):
            say(f"{name}: passed over {n:,} {kind}")
        photos += found or [name]  # a folder without a photo is named in its turn, and the others go on
    return photos


def warn_guess(described: "Described") -> None:
    """Name a photo whose captions are a guess."""
    if described.note:
        warn(f"{described.photo}: {described.note}")


def visible(text: str) -> str:
    """Text in which what would move a terminal's cursor is written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text
    )


def print_row(*fields: Any, null: bool = False) -> None:
    """Print a row of a table for pipes: fields with a tab between them; with `null` as they are, a zero byte behind."""
    texts = map(str, fields)
    print("\t".join(texts if null else map(visible, texts)), end="\0" if null else "\n", flush=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people: the first column to the left, numbers to the right below their headings."""
    from rich.cells import cell_len

    texts = [[visible(text) for text in row] for row in (headings, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    for first, *numbers in texts:
        padded = [first + " " * (widths[0] - cell_len(first))]
        padded += [" " * (width - cell_len(text)) + text for width, text in zip(widths[1:], numbers, strict=True)]
        print("  ".join(padded).rstrip())


def say(line: str) -> None:
    """Print a line on stderr, above a progress bar."""
    print(visible(line), file=sys.stderr)


def say_device(asked: str | None, found: str) -> None:
    """Tell what `auto` has found; if nobody has asked for it, unless it is the processor."""
    if asked == "auto" or (asked is None and found != "cpu"):
        say(f"device: {found}")


def warn(line: str) -> None:
    """Print a warning or an error on stderr."""
    print(f"mrnn: {visible(line)}", file=sys.stderr)


def warn_photos(errors) -> None:
    """Name the photos that were left out."""
    for error in errors:
        warn(f"left out {error}")


def report(corpus) -> None:
    """Say what a data set was recognised as, and what is wrong with it."""
    say(corpus.summary())
    for line in corpus.report.lines():
        say(f"  {line}")


def as_json(value: Any) -> str:
    """One line of JSON; what would move a terminal's cursor, and bytes of no UTF-8, as escapes."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def typed_command() -> str:
    """What was typed."""
    return shlex.join(["mrnn", *sys.argv[1:]])


@contextlib.contextmanager
def bar(label: str, total: int | None = None) -> Generator[Callable[..., None]]:
    """A progress bar on stderr, on a terminal only.

    Yields:
        With `total`: a function of how many more are done; without: of how many are done, of all, and a note.
    """
    if not sys.stderr.isatty():
        yield lambda *numbers: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    # A terminal's output goes above the bar; what is piped or written to a file goes there all the same.
    terminal = sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=terminal) as progress:
        task = progress.add_task(label, total=total, note="")
        if total is not None:
            yield lambda n: progress.advance(task, n)
        else:
            yield lambda done, of, note="": progress.update(task, completed=done, total=of, note=note)
