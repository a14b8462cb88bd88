"""Many processes index one library, by Ray: on the cores of this machine, or on all machines of a cluster.

The driver leaves out what the library has, deals the other files out, and alone commits. A worker maps over its files
what the loop of one process maps; it writes the rows of photos as fragments of the table, and sends back what Lance
says of them and the rows of files. Every few thousand photos become one version. What a kill leaves is a fragment
that no version has, which is cleaned away, and files that the next run reads: the table itself says what is done.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from mrnn.library.place import place_of
from mrnn.library.reading import Batch, Reader, Rows, in_this_process, written
from mrnn.library.rows import file_row, read_file
from mrnn.library.tables import Tables, tables_of
from mrnn.pipeline import Pipeline, load
from mrnn.runtime.folder import BUNDLED
from mrnn.threads import cores, limit_cores

BATCH, LARGEST = 32, 128  # files that a worker takes at once, of few and of many: each batch costs the driver 3 ms
VERSION = 4096  # files in a commit
PATIENCE = 60.0  # seconds after which there is a commit of fewer


def by_workers(pipeline: Pipeline, tables: Tables, address: str) -> Reader:
    """The reader that deals files out.

    Args:
        pipeline: Workers load its folder.
        tables: Beside which rows are written.
        address: Of a Ray cluster; empty for this machine's cores.

    Raises:
        ValueError: Ray is not installed, or the model has no folder.
    """
    # Nobody was asked about statistics, and what Ray has to say of itself is no business of people's.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise ValueError("indexing by many processes needs an extra: pip install 'mrnn[cluster]'") from None
    if pipeline.folder is None:
        raise ValueError("indexing by many processes needs a model that is one folder; save it, or run mrnn convert")

    def read(files: Rows, known: set[str], done: Callable[[int], None]) -> Iterator[Batch]:
        if files:
            with _joined(address):
                yield from _deal(pipeline, tables, files, known, done)

    return read


def _deal(
    pipeline: Pipeline, tables: Tables, files: Rows, known: set[str], done: Callable[[int], None]
) -> Iterator[Batch]:
    import ray

    assert pipeline.folder is not None
    model = pipeline.folder.name if pipeline.folder.parent == BUNDLED else str(pipeline.folder)
    claims = ray.remote(num_cpus=0)(Claims).remote(known)
    cpus = int(ray.cluster_resources().get("CPU", 0)) or 1
    size = min(LARGEST, max(BATCH, len(files) // (64 * cpus)))
    dealt = [_dealt(number, files[i : i + size]) for number, i in enumerate(range(0, len(files), size))]
    found = ray.data.from_arrow(dealt).map_batches(
        Worker,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(model, pipeline.encoder.tolerant, str(tables.place), tables.place.options, claims),
        compute=ray.data.ActorPoolStrategy(size=min(cpus, len(dealt))),
        num_cpus=1,
    )
    waiting: list[dict[str, Any]] = []
    some: list[Batch] = []
    since = time.monotonic()
    for row in found.iter_rows():
        some.append(_returned(row["batch"]))
        done(len(some[-1].files))
        if sum(len(batch.files) for batch in some) >= VERSION or time.monotonic() - since > PATIENCE:
            ready, waiting = _joint(some, waiting, known)
            some = []
            yield ready
            since = time.monotonic()
    ready, waiting = _joint(some, waiting, known)
    yield ready
    # Copies of what could not be used after all, or has changed meanwhile.
    again = [{**file, "hash": ""} for file in waiting]
    yield from in_this_process(pipeline, tables, cores())(again, known, lambda n: None)


def _joint(some: Sequence[Batch], waiting: Rows, known: set[str]) -> tuple[Batch, list[dict[str, Any]]]:
    """Batches as one, and the files whose photos another batch has that is not here yet."""
    hashes = [hash for batch in some for hash in batch.hashes]
    there = {"", *hashes}
    ready, later = [], []
    for file in [*waiting, *(file for batch in some for file in batch.files)]:
        (ready if file["hash"] in there or file["hash"] in known else later).append(file)
    fragments = [fragment for batch in some for fragment in batch.fragments]
    return Batch(ready, hashes, fragments, sum(batch.guesses for batch in some)), later


class Claims:
    """Which batch writes which photo, so that copies that workers meet at once are one row: the first that asks.

    A batch is numbered by the driver, so one that is given to another worker after a kill gets the same photos.

    Args:
        known: Hashes of photos that have rows.
    """

    def __init__(self, known: set[str]):
        self._batches = dict.fromkeys(known, -1)

    def taken(self, hash: str, batch: int) -> bool:
        """Whether a photo is none of a batch's."""
        return self._batches.setdefault(hash, batch) != batch


class _Taken:
    """The photos that are none of a batch's, as a container of hashes."""

    def __init__(self, claims: Any, batch: int):
        self._claims, self._batch, self._told = claims, batch, {}

    def __contains__(self, hash: str) -> bool:
        import ray

        if hash not in self._told:
            self._told[hash] = ray.get(self._claims.taken.remote(hash, self._batch))
        return self._told[hash]


class Worker:
    """One process of a cluster, on one core.

    Args:
        model: Bundled model, or folder.
        tolerant: Of truncated photos take what there is.
        where: The library's place.
        options: For object storage.
        claims: The actor `Claims`.

    Raises:
        ValueError: There is no such model here, or it is not the library's.
    """

    def __init__(self, model: str, tolerant: bool, where: str, options: dict[str, str] | None, claims: Any):
        os.environ["OMP_NUM_THREADS"] = "1"  # for PyTorch, if the model needs it
        limit_cores(1)
        self._pipeline, self._claims = load(model, device="cpu"), claims
        self._pipeline.encoder.tolerant = tolerant
        self._tables = tables_of(self._pipeline, place_of(where, options))

    def __call__(self, dealt: Any) -> dict[str, list[str]]:
        """Read, encode and write the files of a batch."""
        taken = _Taken(self._claims, dealt["batch"][0].as_py())
        files = [
            file_row(os.fsdecode(path.as_py()), size.as_py(), modified.as_py())
            for path, size, modified in zip(dealt["path"], dealt["size"], dealt["time"], strict=True)
        ]
        reads = [read_file(self._pipeline, file, taken) for file in files]
        batch = written(self._pipeline, self._tables, reads, taken)
        fragments = [fragment.to_json() for fragment in batch.fragments]
        return {"batch": [json.dumps({**vars(batch), "fragments": fragments})]}


def _dealt(number: int, files: Rows) -> Any:
    """A batch as Ray carries it; names that are no UTF-8 as bytes."""
    import pyarrow as pa

    paths = [os.fsencode(file["path"]) for file in files]
    rest = {name: [file[name] for file in files] for name in ("size", "time")}
    return pa.table({"batch": [number] * len(files), "path": pa.array(paths, pa.binary()), **rest})


def _returned(text: str) -> Batch:
    from lance.fragment import FragmentMetadata

    said = json.loads(text)
    said["fragments"] = [FragmentMetadata.from_json(json.dumps(fragment)) for fragment in said["fragments"]]
    return Batch(**said)


@contextlib.contextmanager
def _joined(address: str) -> Generator[None]:
    """Be the driver of a cluster, unless this process is one already.

    Raises:
        ValueError: It cannot be reached, or a worker failed for good.
    """
    import ray
    from ray.exceptions import RayError

    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = data.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    mine = not ray.is_initialized()
    try:
        if mine:
            with _unheard():
                ray.init(
                    address or "local",
                    num_cpus=None if address else cores(),
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        yield
    except (RayError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[-1]  # below the traces of all processes
        raise ValueError(f"Ray stopped; what was committed stays ({reason})") from None
    finally:
        if mine:
            ray.shutdown()


@contextlib.contextmanager
def _unheard() -> Generator[None]:
    """Without standard error, where Ray says in C++ that it was told to be silent, and Lance that Ray forks."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
