"""Reading and writing files so that nothing is ever half there."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Generator[Path]:
    """Give a temporary path beside `path`, which takes its place when the block ends without an error.

    A full disk or a kill leaves the old file, or none, and at most a hidden temporary file. A link stays, and what it
    points at is replaced; what is no file, such as `/dev/stdout`, is written into.
    """
    path = Path(path)
    special = path.exists() and not path.is_file()
    if not special:
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
    folder = None if special else path.parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if special:
            path.write_bytes(temporary.read_bytes())
            return
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left in a folder which nobody else is writing to."""
    for path in folder.glob(".*"):
        # Ours (`.NAME.xxxxxxxx.SUFFIX`), and those of safetensors.
        if re.fullmatch(r"\.(.+)\.\w{8}(\.\w+)?|\.tmp\w{6}", path.name) and path.is_file():
            path.unlink()


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write the whole content, or leave the file as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_text(path: Path | str) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises:
        ValueError: It is not UTF-8; the message names the line.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not UTF-8; convert the file to UTF-8 first") from None


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is not JSON, or not UTF-8.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def sha256(content: bytes | Path) -> str:
    """Hexadecimal SHA-256 of bytes or of a file's content."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
