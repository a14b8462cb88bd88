"""When a photo was taken: dates as cameras, programs and people write them."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate
from pathlib import Path

YEARS = range(1800, 2101)  # others are no dates of photos
NEVER = "1970-01-01T00:00:00"
_WRITTEN = re.compile(
    r"""\s* (\d{4}) (?: ([:\-/.]) [ ]?(\d\d?) \2 [ ]?(\d\d?) | (\d\d)(\d\d) )
    (?: (?:[T ]+|(?<=\d{8})) (\d\d?) [:.\-]?[ ]?(\d\d) (?: [:.\-]?[ ]?(\d\d) )? )? (?!\d)""",
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""(?<!\d) ((?:19|20)\d\d) ([-_.:\ ]?) (0[1-9]|1[0-2]) \2 (0[1-9]|[12]\d|3[01])
    (?: (?: [-_T.\ ] | ,\  | \ at\  )?
        (?: (\d\d)([0-5]\d)([0-5]\d) | (\d\d?)([-_.:h])([0-5]\d)\9([0-5]\d) )
        (?: [-_.]?\d{1,3} )? (?!\d) (?: \s?([AP])\.?M )?
    | (?!\d) )""",
    re.VERBOSE | re.IGNORECASE,
)
_MILLISECONDS = re.compile(r"(?<!\d)(1[4-9]\d{11})(?!\d)")  # from 2014 on; fewer are other numbers
_TAKEOUT = ".supplemental-metadata"
_TAKEOUT_STEM = 46  # characters of a name that Takeout leaves before .json


def date_of(taken: datetime | None, source: str, path: Path, modified: float) -> tuple[str, str]:
    """When a photo was taken, and what says so.

    Args:
        taken: What the photo's own metadata say; None if they say nothing.
        source: Which of them.
        path: Of the file; its name may hold a date, and a file of Google Takeout may lie beside it.
        modified: The file's time, in seconds since 1970.

    Returns:
        ISO date and time, and `EXIF`, `XMP`, `IPTC`, `GPS`, `PNG`, `name`, `Takeout` or `file`; the first moment of
        1970 and nothing where even the file's time is none.
    """
    if taken is None:
        taken, source = date_in_name(path.name), "name"
    if taken is None:
        taken, source = _from_takeout(path), "Takeout"
    if taken is None:
        taken, source = _local(modified), "file"
    return (NEVER, "") if taken is None else (taken.isoformat(timespec="seconds"), source)


def parse_date(text: str) -> datetime | None:
    """A date as metadata hold it: with colons or dashes, as ISO, as in mail, or a day alone; None if it is none.

    The time is the one written: that of the place where the photo was taken.
    """
    match = _WRITTEN.match(text)
    if match is None:
        with contextlib.suppress(Exception):  # an odd text makes it raise almost anything
            return _date(*(parsedate(text) or ())[:6])
        return None
    year, _, month, day, compact_month, compact_day, *time = match.groups()
    return _date(year, month or compact_month, day or compact_day, *time)


def date_in_name(name: str) -> datetime | None:
    """The date in a file's name, as phones, messengers and people write it: the year first, or in milliseconds."""
    for match in _NAMED.finditer(name):
        year, _, month, day, *time, half = match.groups()
        hour, minute, second = time[:3] if time[0] else (time[3], *time[5:])
        if half and 1 <= int(hour) <= 12:
            hour = int(hour) % 12 + 12 * (half in "Pp")
        if taken := _date(year, month, day, hour, minute, second):
            return taken
    match = _MILLISECONDS.search(name)
    return match and _local(int(match[1]) // 1000)


def at_utc(moment: datetime) -> datetime:
    """The time here at a moment of Greenwich's."""
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _date(*parts: str | int | None) -> datetime | None:
    """A date of year, month, day, hour, minute and second; at the day's beginning if its time is none."""
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    for time in ((hour, minute, min(second, 59)), (0, 0, 0)):
        with contextlib.suppress(ValueError):
            return datetime(year, month, day, *time) if year in YEARS else None
    return None


def _local(seconds: float) -> datetime | None:
    with contextlib.suppress(ValueError, OverflowError, OSError):  # a file's time may be any number
        return datetime.fromtimestamp(int(seconds))
    return None


def _from_takeout(path: Path) -> datetime | None:
    for name in _takeout_names(path.name):
        # Absent, or something else.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            seconds = json.loads((path.parent / name).read_bytes())["photoTakenTime"]["timestamp"]
            taken = _local(int(seconds))
            if taken is not None and taken.year in YEARS:
                return taken
    return None


def _takeout_names(name: str) -> Iterator[str]:
    """What Takeout may call the file beside a photo.

    It shortens names, counts photos that are called the same, and ends an edited one with a word (`-edited`) in the
    owner's language, without a file of its own.
    """
    names = [(name, "")]
    if match := re.fullmatch(r"(.+)(\(\d+\))(\.\w+)", name):
        names.append((match[1] + match[3], match[2]))
    names += [(re.sub(r"-[^\W\d_]+(?=\.\w+$)", "", name), number) for name, number in names]
    for name, number in dict.fromkeys(names):
        longest = name + _TAKEOUT
        stems = [longest[:length] for length in range(len(longest), len(name) - 1, -1)]
        if len(name) > _TAKEOUT_STEM:
            stems.append(name[:_TAKEOUT_STEM])
        for stem in (*stems, name.rpartition(".")[0]):
            yield f"{stem}{number}.json"
