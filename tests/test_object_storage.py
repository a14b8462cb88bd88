import threading
import time
from pathlib import Path

import pytest
from made import COLOURS, photo, pipeline

pytest.importorskip("lance", reason="pylance is not installed")
pytest.importorskip("moto.server", reason="moto is not installed")

from mrnn.cli import main
from mrnn.library import Library, place_of
from mrnn.library import place as places


@pytest.fixture(scope="module")
def storage():
    """A server that speaks S3, with one bucket, and what it takes to reach it."""
    import boto3
    from moto import server

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    secret = {"aws_access_key_id": "made", "aws_secret_access_key": "made"}
    boto3.client("s3", endpoint_url=address, region_name="us-east-1", **secret).create_bucket(Bucket="bucket")
    yield {**secret, "aws_region": "us-east-1", "aws_endpoint": address}
    running.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(places, "BEAT", 0.5)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(COLOURS):
        photo(folder / ("deep" if i % 2 else "") / f"{colour}.jpg", colour, i)
    return folder


def test_a_library_in_object_storage_is_as_one_in_a_folder(storage, pipe, photos, tmp_path):
    library = Library("s3://bucket/first/library", pipe, storage_options=storage)
    local = Library(tmp_path / "library", pipe)
    assert library.index(photos).added == local.index(photos).added == 4
    again = library.index(photos)
    assert (again.added, again.unchanged, again.removed) == (0, 4, 0)
    found, expected = library.search("a red square"), local.search("a red square")
    assert [(f.id, f.path, f.caption) for f in found] == [(f.id, f.path, f.caption) for f in expected]
    assert library.thumbnail(photos / "red.jpg") == local.thumbnail(photos / "red.jpg")
    assert library.export(tmp_path / "captions.csv") == 4
    assert library.forget(photos / "deep") == 2
    assert len(library) == len(library.search("a square")) == 2
    assert len(Library("s3://bucket/first/library/", pipe, storage_options=storage)) == 2
    with pytest.raises(ValueError, match="--rebuild"):
        Library("s3://bucket/first/library", pipeline(["another"], references=3), storage_options=storage)
    other = Library("s3://bucket/first/library", pipeline(["another"], references=3), True, storage)
    assert len(other) == 0
    with pytest.raises(ValueError, match="no photo library"):
        Library("s3://bucket/first", pipe, storage_options=storage)


def test_the_verbs_take_an_address(storage, photos, tmp_path, monkeypatch, capsys):
    for name, value in storage.items():
        monkeypatch.setenv({"aws_region": "AWS_DEFAULT_REGION"}.get(name, name.upper()), value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", storage["aws_endpoint"])
    monkeypatch.setenv("MRNN_LIBRARY", "s3://bucket/verbs")
    options = ["--model", "flickr8k"]
    assert main(["search", "a dog", *options]) == 1
    assert "s3://bucket/verbs: there is no photo library" in capsys.readouterr().err
    assert main(["index", str(photos), *options]) == 0
    assert "s3://bucket/verbs: 4 photos (4 new" in capsys.readouterr().out
    assert main(["search", "a red square", "--all", "--paths", *options, "--library", "s3://bucket/verbs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["search", "a dog", *options, "--library", "gs://bucket/verbs"]) == 1
    assert "a library lies in a folder or at s3://BUCKET/PREFIX" in capsys.readouterr().err


def test_one_process_writes(storage, pipe, photos, monkeypatch):
    monkeypatch.setattr(places, "BEAT", 1.0)
    library, told = Library("s3://bucket/one", pipe, storage_options=storage), []
    other = Library("s3://bucket/one", pipe, storage_options=storage)
    with library.tables.writing():
        later = threading.Thread(target=lambda: other.index(photos, waiting=told.append))
        later.start()
        deadline = time.monotonic() + 60
        while library.place.read("writer.json")["beat"] < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert later.is_alive()
        assert len(library) == 0
    later.join()
    assert told[0].startswith("process ")
    assert len(library) == 4
    assert "writer.json" not in library.place.names()


def test_a_writer_that_was_killed_is_waited_for_and_overtaken(storage, pipe, photos):
    library = Library("s3://bucket/killed", pipe, storage_options=storage)
    library.place.write("writer.json", {"process": 1, "host": "gone", "since": "then", "owner": "nobody"})
    told = []
    assert library.index(photos, waiting=told.append).added == 4
    assert told == ["process 1 on gone, which has written since then"]
    with library.tables.writing():
        library.place.write("writer.json", {"process": 2, "host": "quicker", "since": "now", "owner": "another"})
        with pytest.raises(ValueError, match="another process has begun to write"):
            library.tables.delete("files", "path", ["any"])
    assert library.place.read("writer.json")["owner"] == "another"


def test_storage_that_is_not_there_is_named(pipe, storage):
    with pytest.raises(ValueError, match="names no bucket"):
        place_of("s3://")
    with pytest.raises(OSError, match="bucket 'nothing'"):
        Library("s3://nothing/here", pipe, storage_options=storage)
    assert str(place_of(Path("~/here"))) == str(Path.home() / "here")
