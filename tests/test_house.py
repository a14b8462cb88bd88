"""The house plan: a room imports only rooms below it."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "mrnn"
FLOORS = [
    "files",
    "workers",
    "text",
    "images",
    "corpora",
    "encoders",
    "models",
    "precision",
    "likelihood",
    "generation",
    "cider",
    "training",
    "consensus",
    "retrieval",
    "explanation",
    "evaluation",
    "model_card",
    "pipeline",
    "recipes",
    "reproduce",
    "library",
    "web",
    "demo",
    "cli",
    "__main__",
]


def imported(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mrnn."):
            yield node.module.split(".")[1]


def test_a_room_imports_only_rooms_below_it():
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for below in imported(path):
            assert FLOORS.index(below) <= FLOORS.index(room), f"{path} imports mrnn.{below}"


def test_every_room_is_on_the_plan():
    rooms = {p.name.removesuffix(".py") for p in SOURCE.iterdir() if not p.name.startswith(("__init__", "__pycache__"))}
    assert rooms - {"bundled"} == set(FLOORS)
    plan = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    for room in rooms - {"bundled", "__main__"}:
        assert f"`{room}" in plan or f"{room}.py`" in plan, room


def test_the_core_never_imports_torchvision_and_never_unpickles():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "import torchvision" not in text
        assert "import pickle" not in text
        assert text.count("torch.load(") == text.count("weights_only=True") - text.count("url(url"), path
