import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made import COLOURS, photo, pipeline

pytest.importorskip("lance", reason="pylance is not installed")
pytest.importorskip("ray.data", reason="Ray is not installed")

from mrnn.library import Library, cluster
from mrnn.pipeline import load

PHOTOS, COPIES = 40, 6
LEFT_OUT = ["bad.jpg", "bad_copy.jpg", "bad_copy_too.jpg"]


@pytest.fixture(scope="module")
def pipe():
    return load("flickr8k")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Distinct photos, copies that other batches meet, and copies of a file that is no photo."""
    folder = tmp_path_factory.mktemp("album") / "photos"
    for i in range(PHOTOS):
        photo(folder / f"{i:02}.jpg", list(COLOURS)[i % 4], i, size=(40, 30))
    for i in range(COPIES):
        shutil.copyfile(folder / f"{i:02}.jpg", folder / f"copy_{i}.jpg")
    for name in LEFT_OUT:
        (folder / name).write_bytes(b"no photo")
    return folder


def rows(library):
    contents, files = (library.tables.read(name, library.tables.schemas[name].names) for name in ("contents", "files"))
    assert len(set(contents["hash"].to_pylist())) == len(contents), "a photo is one row"
    assert len(set(files["path"].to_pylist())) == len(files), "a file is one row"
    return [sorted(table.to_pylist(), key=lambda row: row.get("path", row["hash"])) for table in (contents, files)]


@pytest.fixture(scope="module")
def alone(pipe, album, tmp_path_factory):
    """The rows of one process."""
    library = Library(tmp_path_factory.mktemp("alone") / "library", pipe)
    library.index(album)
    return rows(library)


def assert_same(library, alone):
    for table, expected in zip(rows(library), alone, strict=True):
        for row, wanted in zip(table, expected, strict=True):
            for name in ("image", "likelihoods"):
                if name in wanted:
                    np.testing.assert_allclose(row.pop(name), wanted[name], atol=2e-2)
            assert row == {name: wanted[name] for name in row}


@pytest.fixture(scope="module", autouse=True)
def ray():
    """Two workers on this machine for all tests; small batches, so that a few photos are many."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "cores", lambda: 2)  # of however many there are
        patch.setattr(cluster, "BATCH", 8)
        patch.setattr(cluster, "VERSION", 16)
        with cluster._joined(""):
            yield ray


def counts(report):
    return report.added, report.recognised, report.removed, report.unchanged, len(report.errors)


def test_workers_give_the_rows_of_one_process(pipe, album, alone, tmp_path):
    library = Library(tmp_path / "library", pipe)
    told = []
    report = library.index(album, lambda done, total: told.append((done, total)), ray="")
    assert counts(report) == (PHOTOS, COPIES, 0, 0, 3)
    assert sorted(Path(error.name).name for error in report.errors) == LEFT_OUT
    assert told[-1] == (PHOTOS + COPIES + 3, PHOTOS + COPIES + 3)
    assert_same(library, alone)
    assert len(library.duplicates()) == COPIES


def test_a_worker_that_is_killed_costs_its_batch(pipe, album, alone, tmp_path, monkeypatch):
    killed = tmp_path / "killed"

    class Killed(cluster.Worker):
        """One of them dies when its photos are claimed and written, but not told of."""

        def __call__(self, dealt):
            found = super().__call__(dealt)
            if not killed.exists() and len(dealt) == 8:
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    monkeypatch.setattr(cluster, "Worker", Killed)
    library = Library(tmp_path / "library", pipe)
    assert counts(library.index(album, ray="")) == (PHOTOS, COPIES, 0, 0, 3)
    assert killed.exists()
    assert_same(library, alone)
    table = library.tables.latest("contents")
    versions = [table.checkout_version(version["version"]) for version in table.versions()]
    known = {file.path for version in versions for part in version.get_fragments() for file in part.data_files()}
    left = {path.name for path in (tmp_path / "library" / "contents.lance" / "data").iterdir()}
    assert left <= known, "what the killed worker wrote is cleaned away"


SMALL = """
import mrnn.library.cluster
mrnn.library.cluster.BATCH, mrnn.library.cluster.VERSION = 8, 8
from mrnn.cli import main
raise SystemExit(main())
"""


def test_a_driver_that_is_killed_is_taken_up_where_it_was(pipe, album, alone, tmp_path):
    place = tmp_path / "library"
    library = Library(place, pipe)
    arguments = ["index", str(album), "--ray", "--library", str(place), "--model", "flickr8k"]
    command = [sys.executable, "-c", SMALL, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not len(library) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = len(library)
    assert 0 < before < PHOTOS
    report = library.index(album, ray="")
    assert report.added == PHOTOS - before
    assert_same(library, alone)


def test_workers_write_into_object_storage(pipe, album, alone):
    pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        secret = {"aws_access_key_id": "made", "aws_secret_access_key": "made"}
        boto3.client("s3", endpoint_url=address, region_name="us-east-1", **secret).create_bucket(Bucket="bucket")
        options = {**secret, "aws_region": "us-east-1", "aws_endpoint": address}
        library = Library("s3://bucket/library", pipe, storage_options=options)
        assert counts(library.index(album, ray="")) == (PHOTOS, COPIES, 0, 0, 3)
        assert_same(library, alone)
    finally:
        server.stop()


def test_what_cannot_be_done_by_many_is_said(album, tmp_path, pipe, monkeypatch):
    library = Library(tmp_path / "made", pipeline(references=5))
    with pytest.raises(ValueError, match="needs a model that is one folder"):
        library.index(album, ray="")
    gone = tmp_path / "model"
    shutil.copytree(pipe.folder, gone)
    library = Library(tmp_path / "gone", load(gone))
    assert library.pipeline.encoder
    shutil.rmtree(gone)
    with pytest.raises(ValueError, match=r"Ray stopped.*model: no such model folder"):
        library.index(album, ray="")
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ValueError, match=r"pip install 'mrnn\[cluster\]'"):
        library.index(album, ray="")
