import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# One thread a worker, here and in the programs that tests start: the workers fill the cores already, and threads that
# wait for each other on a full machine take four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every shape and type that these rooms declare is checked at every call of every test.
CHECKED = ["models", "runtime", "tasks", "encoders", "training.batch", "training.data", "training.objective"]
install_import_hook([f"mrnn.{room}" for room in CHECKED], "beartype.beartype")

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

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
