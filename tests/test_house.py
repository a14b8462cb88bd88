"""The house plan: a room imports only rooms below it, and use needs no PyTorch."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "mrnn"
# From the ground up. The workshop stands beside: its rooms may use those of use, never the other way round.
USE = [
    "version",
    "shapes",
    "workshop",
    "files",
    "threads",
    "text",
    "images",
    "cider",
    "corpora",
    "encoders",
    "model_card",
    "runtime",
    "tasks",
    "draw",
    "pipeline",
    "evaluation",
    "library",
    "web",
    "demo",
    "cli",
    "__main__",
]
WORKSHOP = ["networks", "models", "training", "recipes", "reproduce"]
TORCH = ("torch", "transformers", "onnx")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def files():
    return [path for path in SOURCE.rglob("*.py") if room_of(path) != "__init__"]


def modules(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms_imported(path: Path):
    return {module.split(".")[1] for module in modules(path) if module.startswith("mrnn.")}


def test_a_room_imports_only_rooms_below_it():
    for path in files():
        room = room_of(path)
        for below in rooms_imported(path):
            if room in WORKSHOP and below in USE:
                continue
            floors = WORKSHOP if room in WORKSHOP else USE
            assert below in floors, f"{path} imports mrnn.{below} of the workshop; it is asked for by workshop()"
            assert floors.index(below) <= floors.index(room), f"{path} imports mrnn.{below}"


def test_nothing_but_the_workshop_imports_pytorch():
    for path in files():
        if room_of(path) in USE:
            assert not {module.split(".")[0] for module in modules(path)} & set(TORCH), path


def test_no_room_asks_which_model_it_holds():
    from mrnn.models import MODELS

    special = {kind.__name__ for kind in MODELS.values()} | {kind.Config.__name__ for kind in MODELS.values()}
    for path in files():
        defined = {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not asked & special - defined, f"{path} line {node.lineno} asks for {asked & special}"


def test_every_room_is_on_the_plan():
    rooms = {
        p.name.removesuffix(".py")
        for p in SOURCE.iterdir()
        if not p.name.startswith(("__init__", "__pycache__", "py.typed"))
    }
    assert rooms - {"bundled"} == set(USE) | set(WORKSHOP)
    plan = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    for room in rooms - {"bundled", "__main__"}:
        assert f"`{room}" in plan or f"{room}.py`" in plan, room


def test_the_core_never_imports_torchvision_and_never_unpickles():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "import torchvision" not in text
        assert "import pickle" not in text
        assert text.count("torch.load(") == text.count("weights_only=True") - text.count("url(url"), path


def test_text_is_read_and_written_as_utf8_whatever_the_locale():
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            said = {keyword.arg for keyword in node.keywords}
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            text = node.func.attr in ("read_text", "write_text") or (
                node.func.attr == "open" and any(mode in ("r", "w", "a", "x") for mode in modes)
            )
            # A name of our own that is called alike, `place.read_text(path)`, has an argument.
            assert not text or "encoding" in said or (node.func.attr == "read_text" and node.args), (path, node.lineno)
