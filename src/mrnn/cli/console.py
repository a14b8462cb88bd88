"""What every verb shares: how it talks to people, and the types of common arguments."""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

Photos = Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO", help_behavior_hint="")]
Data = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="(required, repeatable)")]
Images = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="(repeatable)")]
Json = Annotated[bool, arg(help="Print JSON, one object a line.", help_behavior_hint="")]
Device = Annotated[str, arg(metavar="auto|cpu|cuda|mps", help="Where to compute; auto says what it took.")]
Hand = Annotated[
    Literal["auto", "onnx", "torch"], arg(help="What computes: ONNX Runtime or PyTorch; auto is the former if it can.")
]


if TYPE_CHECKING:
    from mrnn.pipeline import Described, Pipeline


class Usage(Exception):
    """A mistake in how a verb is called, which ends with exit code 2."""


def open_model(name: str, device: str = "auto", runtime: Hand = "auto") -> "Pipeline":
    """The model of a verb.

    Raises:
        Usage: The device is not to be had.
        ValueError: There is no such model, or it is damaged.
    """
    from mrnn.pipeline import load
    from mrnn.runtime import DeviceError

    if device not in ("auto", "cpu", "cuda", "mps") and not device.startswith("cuda:"):
        raise Usage(f"--device {device}: there are auto, cpu, cuda and mps")
    try:
        return load(name, runtime, device)
    except DeviceError as error:
        raise Usage(f"--device {device}: {error}") from None


def warn_guess(described: "Described") -> None:
    """Name a photo whose captions are a guess."""
    if described.note:
        warn(f"{described.photo}: {described.note}")


def say(line: str) -> None:
    """Print a line on stderr, above a progress bar."""
    print(line, file=sys.stderr)


def warn(line: str) -> None:
    """Print a warning or an error on stderr."""
    print(f"mrnn: {line}".replace("\n", "\\n"), file=sys.stderr)


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
    """One line of JSON; bytes of a file's name that are no UTF-8 as escapes."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()


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
