"""Reading and writing files so that nothing is ever half there."""

import codecs
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_MARK = ".writing-"
_swept: set[Path] = set()


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Generator[Path]:
    """Give a temporary path of the same name, which takes the place of `path` when the block ends without an error.

    A full disk or a kill leaves the old file, or none, and at most a hidden temporary folder beside it, which the next
    process that writes there removes. A link stays, and what it points at is replaced; what is no file, such as
    `/dev/stdout`, is written into.

    Raises:
        OSError: The file cannot be written; the message names it.
    """
    path = Path(path)
    special = path.exists() and not path.is_file()
    try:
        if not special:
            path = path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
        with tempfile.TemporaryDirectory(
            dir=None if special else path.parent, prefix=_prefix(path.name), ignore_cleanup_errors=True
        ) as folder:
            temporary = Path(folder) / path.name
            temporary.touch()
            mode = temporary.stat().st_mode & 0o777  # as the umask wants it, whatever the writer makes of it
            yield temporary
            if special:
                path.write_bytes(temporary.read_bytes())
                return
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None
    except OSError as error:
        if error.errno is None or _prefix(path.name) not in str(error.filename or _prefix(path.name)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _prefix(name: str) -> str:
    """How a temporary folder is called: it names who writes, on which machine."""
    return f".{name[:40]}{_MARK}{_machine()}-{os.getpid()}-"


def _machine() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname())


def is_leftover(name: str) -> bool:
    """Whether a file's name is that of a temporary folder."""
    return name.startswith(".") and _MARK in name


def remove_leftovers(folder: Path) -> None:
    """Delete what writers of this machine that were killed left in a folder; once a process is enough."""
    if folder in _swept:
        return
    _swept.add(folder)
    for name in filter(is_leftover, os.listdir(folder)):  # noqa: PTH208
        machine, _, rest = name.rpartition(_MARK)[2].rpartition("-")[0].rpartition("-")
        elsewhere = rest.isdigit() and machine != _machine()
        if not elsewhere and not (rest.isdigit() and _runs(int(rest))):
            shutil.rmtree(folder / name, ignore_errors=True)


def _runs(process: int) -> bool:
    if os.name == "posix":  # elsewhere asking would end it
        with contextlib.suppress(PermissionError):  # another user's
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return False
    return True


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write the whole content, or leave the file as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically."""
    # Bytes of a file's name that are no UTF-8 become escapes.
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def plain(text: str) -> str:
    """Text for a picture, in which a dollar is a dollar and begins no formula, and bytes of no UTF-8 are marks."""
    return text.replace("$", r"\$").encode(errors="replace").decode()


def unicode_encoding(start: bytes) -> str:
    """Python's name of the encoding that a text's first bytes are in, UTF-16 or UTF-8; the first letter is ASCII."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start[:2]:
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def read_text(path: Path | str) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark, or in UTF-16.

    Raises:
        ValueError: It is neither; the message names the line.
    """
    content = Path(path).read_bytes()
    encoding = unicode_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(f"{path}: damaged UTF-16") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not UTF-8; convert the file to UTF-8 first") from None


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is not JSON, or not UTF-8.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def sha256(content: bytes | Path) -> str:
    """Hexadecimal SHA-256 of bytes or of a file's content."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
