"""Where a library lies: a folder, or a prefix in object storage. Lance keeps tables in both; this is the rest.

library.json    what the tables are of
writer.json     who writes them
lock            held by the one process that writes, in a folder
"""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from mrnn.files import first_line, is_leftover, read_json, write_json

BEAT = 10.0  # seconds between two signs of life of a process that writes to object storage
_TAKEN = ("access_key_id", "secret_access_key", "session_token", "region", "endpoint", "allow_http")
_ALIASES = {"default_region": "region", "endpoint_url": "endpoint"}


class Folder:
    """A folder of a file system.

    Args:
        path: Of the folder; it need not be there yet.

    Attributes:
        options: Lance's `storage_options`.
        locked: Whether the lock cannot be lost.
    """

    options: dict[str, str] | None = None
    locked = True

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def uri(self, name: str) -> str:
        """What Lance calls a table."""
        return str(self.path / name)

    def names(self) -> set[str]:
        """What lies here."""
        names = os.listdir(self.path) if self.path.is_dir() else []  # noqa: PTH208
        return {name for name in names if not is_leftover(name)}

    def has(self, name: str) -> bool:
        """Whether a note lies here."""
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """A note; empty if it is no object of JSON.

        Raises:
            OSError: There is none.
            ValueError: It is not JSON.
        """
        note = read_json(self.path / name)
        return note if isinstance(note, dict) else {}

    def write(self, name: str, note: dict[str, Any]) -> None:
        """Replace a note, the whole or nothing."""
        write_json(self.path / name, note)

    def remove(self, name: str) -> None:
        """Delete a note or a table, if it is there."""
        if self.has(name):
            (self.path / name).unlink()
        shutil.rmtree(self.path / name, ignore_errors=True)

    def check(self) -> None:
        """A lock cannot be lost."""

    @contextlib.contextmanager
    def writing(self, waiting: Callable[[str], None]) -> Generator[None]:
        """Be the one process that writes.

        Args:
            waiting: Told who writes, if one must wait.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(_named(self._writer()))
            lock.acquire()
        try:
            self.write("writer.json", _myself())
            yield
        finally:
            lock.release()

    def _writer(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return self.read("writer.json")
        return {}


class Bucket:
    """A prefix in object storage that speaks S3.

    Such storage has no lock. Who writes says so in `writer.json`, and changes it every ten seconds; whoever finds it
    waits until it is gone, or has not changed for half a minute: then its writer was killed. No clocks are compared.
    Two that begin within the same second see each other, as each reads its own note again before it begins; one that
    was held up for half a minute and overtaken finds out before its next commit. What is left is a commit that is on
    its way while another process begins, and then the worst is a photo with two rows.

    Args:
        uri: `s3://BUCKET/PREFIX`.
        options: Lance's `storage_options`, beside those of the usual `AWS_*` environment variables.

    Raises:
        ValueError: The address names no bucket.
    """

    locked = False

    def __init__(self, uri: str, options: Mapping[str, str]):
        from pyarrow import fs

        self._uri, self._prefix = uri.rstrip("/"), uri.removeprefix("s3://").rstrip("/")
        if not self._prefix or self._prefix.startswith("/"):
            raise ValueError(f"{uri}: names no bucket; write s3://BUCKET/PREFIX")
        usual = {_plain(key): value for key, value in os.environ.items() if key.startswith("AWS_")}
        self.options = {key: usual[key] for key in _TAKEN if key in usual}
        self.options |= {_plain(key): value for key, value in options.items()}
        endpoint = urlsplit(self.options.get("endpoint", ""))
        if endpoint.scheme == "http":
            self.options.setdefault("allow_http", "true")
        self._files = fs.S3FileSystem(
            access_key=self.options.get("access_key_id"),
            secret_key=self.options.get("secret_access_key"),
            session_token=self.options.get("session_token"),
            region=self.options.get("region"),
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or "https",
        )
        self._owner = ""

    def __str__(self) -> str:
        return self._uri

    def uri(self, name: str) -> str:
        """What Lance calls a table."""
        return f"{self._uri}/{name}"

    def names(self) -> set[str]:
        """What lies here.

        Raises:
            ValueError: The storage cannot be reached.
        """
        from pyarrow import fs

        try:
            here = self._files.get_file_info(fs.FileSelector(self._prefix, allow_not_found=True))
        except OSError as error:
            raise ValueError(f"{self}: cannot be reached ({first_line(error)})") from None
        return {info.base_name for info in here}

    def has(self, name: str) -> bool:
        """Whether a note lies here."""
        return name in self.names()

    def read(self, name: str) -> dict[str, Any]:
        """As for a folder."""
        with self._files.open_input_stream(f"{self._prefix}/{name}") as stream:
            note = json.loads(stream.read())
        return note if isinstance(note, dict) else {}

    def write(self, name: str, note: dict[str, Any]) -> None:
        """As for a folder: an object is there as a whole when it is closed."""
        with self._files.open_output_stream(f"{self._prefix}/{name}") as stream:
            stream.write(json.dumps(note, indent=2).encode())

    def remove(self, name: str) -> None:
        """As for a folder."""
        with contextlib.suppress(FileNotFoundError):
            if name.endswith(".lance"):
                self._files.delete_dir(f"{self._prefix}/{name}")
            else:
                self._files.delete_file(f"{self._prefix}/{name}")

    def check(self) -> None:
        """Before a commit.

        Raises:
            ValueError: Another process writes now.
        """
        if self._writer().get("owner") != self._owner:
            raise ValueError(f"{self}: another process has begun to write the library; run this again when it is done")

    @contextlib.contextmanager
    def writing(self, waiting: Callable[[str], None]) -> Generator[None]:
        """As for a folder."""
        mine = {**_myself(), "owner": uuid.uuid4().hex}
        while self._writer().get("owner") != mine["owner"]:
            self._wait(waiting)
            self.write("writer.json", {**mine, "beat": 0})
            time.sleep(BEAT / 10)  # for others that have just found none
        self._owner, stop = mine["owner"], threading.Event()
        beats = threading.Thread(target=self._beat, args=(mine, stop), daemon=True)
        beats.start()
        try:
            yield
        finally:
            stop.set()
            beats.join()
            if self._writer().get("owner") == self._owner:
                self.remove("writer.json")

    def _wait(self, waiting: Callable[[str], None]) -> None:
        last, since = {}, time.monotonic()
        while note := self._writer():
            if not last:
                waiting(_named(note))
            if note != last:
                last, since = note, time.monotonic()
            elif time.monotonic() - since > 3 * BEAT:
                return
            time.sleep(BEAT / 10)

    def _beat(self, mine: dict[str, Any], stop: threading.Event) -> None:
        beat = 0
        while not stop.wait(BEAT):
            beat += 1
            with contextlib.suppress(OSError):  # the next one may come through
                if self._writer().get("owner") != mine["owner"]:
                    return
                self.write("writer.json", {**mine, "beat": beat})

    def _writer(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self.read("writer.json")
        return {}


Place = Folder | Bucket


def place_of(where: Path | str, options: Mapping[str, str] | None = None) -> Place:
    """The place of a library.

    Args:
        where: A folder, or `s3://BUCKET/PREFIX`.
        options: Lance's `storage_options` for object storage.

    Raises:
        ValueError: It is an address of another kind, or pylance is not installed.
    """
    text = os.fspath(where)
    if "://" not in text:
        return Folder(Path(text).expanduser())
    if not text.startswith("s3://"):
        raise ValueError(f"{text}: a library lies in a folder or at s3://BUCKET/PREFIX")
    try:
        return Bucket(text, options or {})
    except ImportError:
        raise ValueError("the photo library needs an extra: pip install 'mrnn[library]'") from None


def _plain(key: str) -> str:
    key = key.lower().removeprefix("aws_")
    return _ALIASES.get(key, key)


def _myself() -> dict[str, Any]:
    now = datetime.now().isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def _named(note: dict[str, Any]) -> str:
    try:
        return f"process {note['process']} on {note['host']}, which has written since {note['since']}"
    except KeyError:
        return "another process"
