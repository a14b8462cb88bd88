import os
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    folder = Path(os.environ.get("MRNN_DATA") or DATA)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MRNN_DATA to the folder that holds flickr8k and coco")
    return folder


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")
