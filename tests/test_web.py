"""The API through a test client; the page is tested in a browser, in test_page.py."""

import asyncio
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from made import COLOURS, photo, pipeline
from PIL import Image

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("lance", reason="pylance is not installed")

from fastapi.testclient import TestClient

from mrnn.cli import main
from mrnn.images import open_image
from mrnn.library import Library
from mrnn.pipeline import load
from mrnn.web import Limits, create_app
from mrnn.web.indexing import Indexing
from mrnn.web.worker import Busy, Worker


@pytest.fixture(scope="module")
def pipe():
    return pipeline(references=12)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(COLOURS):
        photo(folder / f"{colour}.jpg", colour, i)
    return folder


@pytest.fixture(scope="module")
def client(pipe, photos, tmp_path_factory):
    library = Library(tmp_path_factory.mktemp("web") / "library", pipe)
    library.index(photos)
    app = create_app(pipe, library, limits=Limits(upload=300_000, pixels=500_000, sentences=5, characters=60))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def image(photos, name="red") -> dict:
    return {"image": (photos / f"{name}.jpg").open("rb")}


def test_captions_are_the_pipelines(client, pipe, photos):
    answer = client.post("/v1/caption", files=image(photos), data={"n": 2}).json()
    expected = pipe.caption(photos / "red.jpg", n=2, beam=5)[0]
    assert [c["text"] for c in answer["captions"]] == [c.text for c in expected]
    assert answer["captions"][0]["log_likelihood"] == pytest.approx(expected[0].log_likelihood, abs=1e-4)
    assert answer["captions"][0]["tokens"][-1]["token"] == "<end>"
    one = client.post("/v1/caption", files=image(photos), data={"sample": True, "seed": 3}).json()
    assert one == client.post("/v1/caption", files=image(photos), data={"sample": True, "seed": 3}).json()


@pytest.mark.parametrize("n", [2, 7])
def test_captions_are_the_command_lines(n, photos, capsys):
    assert main(["caption", str(photos / "red.jpg"), "--n", str(n), "--model", "flickr8k", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    with TestClient(create_app(load("flickr8k")), base_url="http://localhost") as client:
        answer = client.post("/v1/caption", files=image(photos), data={"n": n}).json()
    assert len(answer["captions"]) == n
    assert [c["text"] for c in answer["captions"]] == [c["text"] for c in written["captions"]]
    assert [c["tokens"] for c in answer["captions"]] == [c["tokens"] for c in written["captions"]]
    assert [answer[key] for key in ("confidence", "guess", "note")] == [
        written[key] for key in ("confidence", "guess", "note")
    ]


def test_asking_for_its_health_hashes_no_weights_again(monkeypatch):
    hashed = []
    monkeypatch.setattr("mrnn.models.saving.fingerprint_of", lambda *given: hashed.append(given) or "0123456789abcdef")
    with TestClient(create_app(pipeline()), base_url="http://localhost") as client:
        for _ in range(3):
            assert client.get("/v1/health").json()["model"] == "0123456789abcdef"
    assert len(hashed) == 1


def test_ranking_and_explaining(client, pipe, photos):
    lines = ["a red square", "a large picture", "shows a"]
    answer = client.post("/v1/rank", files=image(photos), data={"sentences": "\n".join(lines)}).json()
    expected = pipe.rank([photos / "red.jpg"], lines)[0]
    assert [a["sentence"] for a in answer] == [lines[m.index] for m in expected]
    raw = client.post("/v1/rank", files=image(photos), data={"sentences": "\n".join(lines), "prior_weight": 0}).json()
    likely = pipe.log_likelihood([photos / "red.jpg"], lines)[0]
    assert {a["sentence"]: a["score"] for a in raw} == pytest.approx(dict(zip(lines, likely.tolist(), strict=True)))
    answer = client.post("/v1/explain", files=image(photos), data={"sentence": "a red square"}).json()
    assert [w["token"] for w in answer["words"]] == ["a", "red", "square", "<end>"]
    assert len(answer["words"][0]["heat"]) == 9


def test_search_and_photos_by_id(client, photos):
    found = client.get("/v1/search", params={"q": "a red square", "all": True}).json()["photos"]
    assert {f["name"] for f in found} == {f"{colour}.jpg" for colour in COLOURS}
    assert "path" not in found[0]
    like = client.get("/v1/search", params={"like": found[0]["id"], "top": 1}).json()["photos"]
    assert like[0]["id"] == found[0]["id"]
    posted = client.post("/v1/search", files=image(photos, "blue"), data={"top": 1}).json()["photos"]
    assert posted[0]["name"] == "blue.jpg"
    small = client.get(f"/v1/thumbnail/{found[0]['id']}")
    assert small.headers["content-type"] == "image/jpeg"
    large = Image.open(io.BytesIO(client.get(f"/v1/photo/{found[0]['id']}").content))
    assert large.size == (64, 48)
    assert client.get("/v1/index").json()["photos"] == 4
    assert client.get("/v1/search", params={"q": "a", "before": "1990-01-01"}).json()["photos"] == []
    some = client.get("/v1/search", params={"q": "a red 강아지"}).json()
    assert (len(some["photos"]) + some["left_out"], some["unknown"]) == (4, ["강아지"])
    dates = [f["taken"] for f in client.get("/v1/search").json()["photos"]]
    assert (len(dates), dates) == (4, sorted(dates, reverse=True))


@pytest.mark.parametrize("id", ["..%2f..%2fetc%2fpasswd", "0" * 64, "' OR 1=1 --", "red.jpg"])
def test_nothing_is_served_by_any_other_name(client, id):
    assert client.get(f"/v1/thumbnail/{id}").status_code == 404
    assert client.get(f"/v1/photo/{id}").status_code == 404


def test_the_limit_of_pixels_is_that_of_what_is_decoded(client):
    large, whole = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4000, 3000), "red").save(large, "JPEG")
    Image.new("RGB", (4000, 3000), "red").save(whole, "PNG")
    assert client.post("/v1/caption", files={"image": large.getvalue()}).status_code == 200
    assert "more than the limit" in client.post("/v1/caption", files={"image": whole.getvalue()}).json()["detail"]


def test_served_copies_are_in_srgb_and_say_when_a_photo_was_taken(pipe, tmp_path):
    field = Path(__file__).resolve().parents[2] / "shared" / "field" / "08"
    if not field.is_dir():
        pytest.skip(f"no field cases at {field}")
    shutil.copytree(field, tmp_path / "photos")
    library = Library(tmp_path / "library", pipe)
    library.index(tmp_path / "photos")
    with TestClient(create_app(pipe, library), base_url="http://localhost") as client:
        found = client.get("/v1/search").json()["photos"]
        assert {f["taken_from"] for f in found} == {"file"}
        ids = {f["name"]: f["id"] for f in found}
        served = Image.open(io.BytesIO(client.get(f"/v1/photo/{ids['icc-adobergb.jpg']}").content))
    assert "icc_profile" not in served.info
    path = tmp_path / "photos" / "icc-adobergb.jpg"
    right, wrong = (
        np.abs(np.asarray(served).astype(int) - np.asarray(image)).mean()
        for image in (open_image(path), Image.open(path).convert("RGB"))
    )
    assert right < 0.7 * wrong


def test_bad_requests_get_one_clear_line(client, photos):
    def post(content: bytes, **data):
        return client.post("/v1/caption", files={"image": content}, data=data)

    assert post(b"no photo").status_code == 422
    assert "not an image" in post(b"no photo").json()["detail"]
    assert post(b"x" * 400_000).status_code == 413
    big = io.BytesIO()
    Image.new("1", (1000, 800)).save(big, "PNG")
    for verb in ("caption", "rank", "explain", "search"):
        answer = client.post(f"/v1/{verb}", files={"image": big.getvalue()}, data={"sentences": "a"})
        assert (answer.status_code, "more than the limit" in answer.json()["detail"]) == (422, True), verb
    red = (photos / "red.jpg").read_bytes()
    assert post(red, n=99).status_code == 422
    rank = client.post("/v1/rank", files=image(photos), data={"sentences": "a\n" * 6})
    assert (rank.status_code, rank.json()["detail"]) == (422, "give between 1 and 5 sentences")
    assert client.post("/v1/rank", files=image(photos), data={"sentences": "a" * 61}).status_code == 422
    assert client.post("/v1/rank", files=image(photos), data={"sentences": "..."}).status_code == 422
    chunks = client.post("/v1/caption", content=iter([b"no", b"length"]), headers={"content-type": "text/plain"})
    assert chunks.status_code == 411


def test_a_token_guards_everything_but_page_and_health(pipe):
    with TestClient(create_app(pipe, token="secret")) as client:
        assert client.get("/v1/index").status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/v1/index", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/v1/index", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/v1/health").json()["status"] == "ok"
        assert client.get("/").status_code == 200
        assert (
            client.get("/v1/search", headers={"Authorization": "Bearer secret"}, params={"q": "a"}).status_code == 404
        )


def test_without_a_token_only_this_machines_own_names_are_answered(pipe):
    app = create_app(pipe)
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("elsewhere.example", 421)):
        assert TestClient(app).get("/v1/index", headers={"Host": host}).status_code == status, host


def test_a_library_is_kept_up_to_date_and_indexing_ends_with_the_server(pipe, tmp_path):
    folder = tmp_path / "photos"
    photo(folder / "red.jpg", "red", 0)
    library = Library(tmp_path / "library", pipe)
    indexing = Indexing(library, folder, interval=0.05)

    async def serve() -> list[int]:
        counts = []
        task = asyncio.create_task(indexing.run())
        for want in (1, 2):
            while len(library) != want:
                await asyncio.sleep(0.02)
            counts.append(len(library))
            photo(folder / f"blue{want}.jpg", "blue", want)
        folder.rename(tmp_path / "away")  # a disk that is away is waited for
        await asyncio.sleep(0.3)
        assert not task.done()
        (tmp_path / "away").rename(folder)
        indexing.stop()
        await task
        return counts

    assert asyncio.run(asyncio.wait_for(serve(), 60)) == [1, 2]
    for i in range(100):
        photo(folder / f"green{i}.jpg", "green", i)
    ending = Indexing(library, folder)

    async def begin_and_end() -> None:
        task = asyncio.create_task(ending.run())
        while not ending.total:
            await asyncio.sleep(0)
        ending.stop()
        await task

    asyncio.run(asyncio.wait_for(begin_and_end(), 60))
    assert not ending.running
    assert len(library) < 100


def test_the_page_asks_no_other_host(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for file in ("/", "/app.js", "/style.css", "/icon.svg"):
        text = client.get(file).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert ".innerHTML" not in text
    assert client.get("/metrics").text.count("mrnn_requests_total{") > 3


def test_photos_that_wait_are_taken_together(pipe, photos, monkeypatch):
    sizes, gate = [], threading.Event()
    describe = type(pipe).describe_features

    def counted(self, photos, features, config):
        sizes.append(len(features))
        return describe(self, photos, features, config)

    monkeypatch.setattr(type(pipe), "describe_features", counted)
    worker = Worker(pipe, 8)
    names = ["red", "blue", "green", "yellow"]

    async def ask():
        held = asyncio.create_task(worker.soon(lambda _: gate.wait()))
        await asyncio.sleep(0.1)  # the thread is held at the gate while the others queue up
        waiting = [asyncio.create_task(worker.caption((photos / f"{n}.jpg").read_bytes(), n=1)) for n in names]
        bad = asyncio.create_task(worker.caption(b"no photo", n=1))
        other = asyncio.create_task(worker.caption((photos / "red.jpg").read_bytes(), n=2))
        more = [asyncio.create_task(worker.soon(lambda _: None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await worker.soon(lambda _: None)
        gate.set()
        results = await asyncio.gather(held, *waiting, bad, other, *more, return_exceptions=True)
        return results[1:5], results[5], results[6]

    found, bad, other = asyncio.run(ask())
    worker.stop()
    assert sorted(sizes) == [1, 4]
    assert [f.captions[0].text for f in found] == [pipe.caption(photos / f"{n}.jpg")[0][0].text for n in names]
    assert "not an image" in str(bad)
    assert len(other.captions) == 2


def test_serving_to_others_wants_a_token(capsys):
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "give a token" in capsys.readouterr().err


def test_a_library_that_is_gone_is_one_clear_answer(pipe, photos, tmp_path):
    library = Library(tmp_path / "library", pipe)
    library.index(photos)
    with TestClient(create_app(pipe, library), base_url="http://127.0.0.1") as client:
        assert client.get("/v1/search").status_code == 200
        shutil.rmtree(tmp_path / "library")
        for path in ("/v1/search", "/v1/index", f"/v1/thumbnail/{'0' * 64}"):
            answer = client.get(path)
            assert (answer.status_code, "is gone" in answer.json()["detail"]) == (503, True), path
        Library(tmp_path / "library", pipe).index(photos)
        assert len(client.get("/v1/search").json()["photos"]) == 4
