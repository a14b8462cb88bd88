"""The page in a real browser: drop, caption, explain, rank, search, click through; desktop, phone, axe checks."""

import shutil
import socket
import threading
import time

import pytest
from made import COLOURS, photo, pipeline

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("lance", reason="pylance is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)

import uvicorn  # noqa: E402

from mrnn.library import Library  # noqa: E402
from mrnn.web import create_app  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, colour in enumerate(COLOURS):
        photo(folder / f"{colour}.jpg", colour, i, (320, 240))
    photo(folder / "<img src=x onerror=alert(1)>.jpg", "red", 9)
    return folder


@pytest.fixture(scope="module")
def address(photos, tmp_path_factory):
    pipe = pipeline(references=12)
    library = Library(tmp_path_factory.mktemp("page") / "library", pipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(pipe, library, index=photos)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    context = browser.new_context(viewport=SIZES[request.param])
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: page.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith((address, "blob:")) else None)
    page.goto(address)
    yield page
    assert page.problems == []
    context.close()


def drop(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector("#words button")


def violations(page) -> list[str]:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
    found = axe.Axe().run(page)["violations"]
    return [f"{v['id']}: {v['help']}: {[n['html'] for n in v['nodes']]}" for v in found]


def test_a_photo_is_captioned_explained_and_ranked(page, photos):
    drop(page, photos / "red.jpg")
    captions = page.locator("#captions li")
    assert captions.count() == 3
    word = page.locator("#words button").first
    word.focus()
    assert "bits" in page.inner_text("#word-note")
    assert "shown" in page.get_attribute("#heat", "class")
    word.blur()
    page.fill("#sentences", "a red square\na blue picture")
    page.click("#rank-form button")
    page.wait_for_selector("#ranking li")
    assert page.locator("#ranking li").count() == 2
    before = captions.first.inner_text()
    page.evaluate("() => { Math.random = () => 0; }")  # one draw in fifty is the likeliest caption itself; this is not
    page.evaluate("() => { wildness.value = 1.5; wildness.dispatchEvent(new Event('change')); }")
    page.wait_for_function("(before) => captions.querySelector('li').innerText !== before", arg=before)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    assert violations(page) == []


def test_the_library_is_searched_and_clicked_through(page):
    page.wait_for_selector("#library:not([hidden])")
    page.wait_for_function("() => document.getElementById('indexing').innerText.startsWith('5 photos')")
    page.wait_for_function("() => document.getElementById('found').innerText.includes('newest first')")
    page.fill("#query", "a red square")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.getElementById('found').innerText.includes('newest first')")
    if not page.evaluate("() => document.getElementById('show-all').hidden"):
        page.click("#show-all")
    page.wait_for_function("() => document.querySelectorAll('#results li').length === 5")
    page.evaluate("() => document.getElementById('results').lastElementChild.scrollIntoView()")
    page.wait_for_function("() => document.querySelectorAll('#results img[src]').length === 5")
    assert "<img src=x" in page.inner_text("#results"), "a file's name is shown as text"
    assert violations(page) == []
    page.locator("#results button").first.click()
    page.wait_for_function("() => viewer.open && document.getElementById('viewer-photo').naturalWidth > 0")
    assert violations(page) == []
    page.click("#viewer-like")
    page.wait_for_function("() => document.getElementById('found').innerText.includes('like this one')")
    page.locator("#results button").first.click()
    page.click("#viewer-explain")
    page.wait_for_selector("#words button")


def test_mistakes_are_told(page, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    page.set_input_files("#file", tmp_path / "bad.jpg")
    page.wait_for_function("() => document.getElementById('error').innerText.includes('not an image')")
    page.problems.clear()  # the browser's own line about the 422, and about the picture it cannot show


def test_the_page_is_readable_in_the_dark(browser, address):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#library:not([hidden])")
    assert violations(page) == []
    context.close()
