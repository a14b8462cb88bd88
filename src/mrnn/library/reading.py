"""Some files at a time, read, encoded and written beside the tables: whoever indexes commits what comes out."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mrnn.library.rows import ReadFile, encode, read_file
from mrnn.library.tables import Tables
from mrnn.pipeline import Pipeline
from mrnn.threads import each

BATCH = 128
Rows = Sequence[dict[str, Any]]
# From rows of files and the hashes of photos that have rows, a set that grows with every commit, to batches. The last
# argument is told how many files more are done.
Reader = Callable[[Rows, set[str], Callable[[int], None]], Iterator["Batch"]]


@dataclass(frozen=True)
class Batch:
    """What came of some files; of their photos, each whole row is written, but in no version of the table yet.

    Args:
        files: Their rows.
        hashes: Of the photos that have new rows.
        fragments: Lance's, of these rows.
        guesses: How many captions are no more than a guess.
    """

    files: Rows
    hashes: Sequence[str]
    fragments: Sequence[Any]
    guesses: int


def written(pipeline: Pipeline, tables: Tables, reads: Sequence[ReadFile], known: Container[str]) -> Batch:
    """Encode files that were read, each photo once, and write its row unless it is known."""
    fresh = {read.file["hash"]: read for read in reads if read.pixels is not None}
    rows, guesses = encode(pipeline, [read for hash, read in fresh.items() if hash not in known])
    fragments = tables.write("contents", rows)
    return Batch([read.file for read in reads], [row["hash"] for row in rows], fragments, guesses)


def in_this_process(pipeline: Pipeline, tables: Tables, threads: int) -> Reader:
    """The reader that needs nobody else.

    Args:
        pipeline: What encodes.
        tables: Beside which rows are written.
        threads: Reading and decoding.
    """

    def read(files: Rows, known: set[str], done: Callable[[int], None]) -> Iterator[Batch]:
        some: list[ReadFile] = []
        for one in each(files, lambda file: read_file(pipeline, file, known), threads):
            some.append(one)
            done(1)
            if len(some) == BATCH:
                yield written(pipeline, tables, some, known)
                some = []
        if some:
            yield written(pipeline, tables, some, known)

    return read
