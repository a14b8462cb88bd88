"""Pictures of the web page for the README, on sample photos that scikit-image and scikit-learn ship.

python scripts/screenshots.py [FOLDER]   (docs/images by default; needs Chromium)
"""

import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from mrnn.demo import sample_photos
from mrnn.library import Library
from mrnn.pipeline import load
from mrnn.web import create_app

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def explain(page: Page, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.wait_for_selector("#words button")
    words = page.locator("#words button")
    bits = [
        float((words.nth(i).get_attribute("aria-label") or "").split(": ")[1].split()[0]) for i in range(words.count())
    ]
    page.wait_for_timeout(300)
    words.nth(bits.index(max(bits))).hover()  # the word for which the photo speaks loudest


def search(page: Page, sentence: str) -> None:
    page.fill("#query", sentence)
    page.click("#search-form button")
    page.wait_for_function("() => [...document.querySelectorAll('#results img')].some((i) => i.naturalWidth > 0)")


def main() -> None:
    """Serve, look, and leave."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    with tempfile.TemporaryDirectory() as place, socket.socket() as free:
        folder = Path(place) / "photos"
        folder.mkdir()
        for photo in sample_photos():
            shutil.copy(photo, folder)
        pipe = load()
        library = Library(Path(place) / "library", pipe)
        library.index(folder)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = uvicorn.Server(uvicorn.Config(create_app(pipe, library), port=port, log_level="warning"))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            for name, width, height in (("page", 1100, 1080), ("page-phone", 390, 1400)):
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(f"http://127.0.0.1:{port}")
                search(page, "a person on a motorcycle")
                explain(page, folder / "astronaut.png")
                page.wait_for_timeout(500)
                page.screenshot(path=out / f"{name}.png")
            browser.close()
        server.should_exit = True


if __name__ == "__main__":
    main()
