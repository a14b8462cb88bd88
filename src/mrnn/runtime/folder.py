"""The folder of a saved model: what is in it, and that it is whole.

    config.json                encoder, model, generation, provenance, what ONNX Runtime's hand needs, and of every
                               other file that counts its SHA-256
    vocab.txt                  a token a line
    model.safetensors          weights of the language model, and of a CNN's part that it trained
    encoder.safetensors        the other weights of the encoder; not of one from a hub, which stays outside
    *.onnx                     the model's calls and the encoder, pointing into the weights
    rounded_encoder.onnx       the encoder in 8-bit numbers, with weights of its own; not of every model
    references.safetensors     image vectors of training photos

Nothing is ever unpickled. A model is saved into a folder within this one, `.saved`, and counts from the moment on in
which that has its name: its files then take the place of those before. So a kill leaves the old model or the new one.

Shapes: R reference images, F width of an image vector.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mrnn.files import first_line, read_json, sha256, write_atomically
from mrnn.images import Preprocessing
from mrnn.model_card import model_card
from mrnn.runtime.ngram import NGramRuntime
from mrnn.runtime.onnx import Graphs, OnnxRuntime
from mrnn.runtime.protocol import Runtime
from mrnn.shapes import Float
from mrnn.text import Vocabulary

FORMAT = 2
REFERENCES, WEIGHTS, ENCODER_WEIGHTS = "references.safetensors", "model.safetensors", "encoder.safetensors"
NEEDED = ("config.json", "vocab.txt", WEIGHTS)
PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.onnx", "README.md")
_MOST = 10**7  # of what a configuration may count
BUNDLED = Path(__file__).parents[1] / "bundled"
_SAVING, _SAVED = ".saving", ".saved"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What may be read of a damaged configuration before it is found out.
_MISTAKES = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was found whole.

    Args:
        path: Of the folder.
        format: 2; or 1, which has no graphs, no hashes and no weights of the encoder.
        vocabulary: The model's words.
        model: `name`, and what `models.build_model` takes.
        encoder: What the encoder says of itself.
        generation: Fields of `GenerationConfig`.
        use: What ONNX Runtime's hand needs; None if there are no graphs.
        confidence: Fields of `Confidence`; None where it was not fitted.
        provenance: What else the configuration holds.
    """

    path: Path
    format: int
    vocabulary: Vocabulary
    model: dict[str, Any]
    encoder: dict[str, Any]
    generation: dict[str, Any]
    use: dict[str, Any] | None
    confidence: dict[str, Any] | None
    provenance: dict[str, Any]

    @property
    def tables(self) -> bool:
        """Whether the model is tables, which need no graphs."""
        return self.use is not None and "tables" in self.use

    @property
    def encoder_inside(self) -> bool:
        """Whether the encoder's weights and graph are here."""
        return (self.path / "encoder.onnx").is_file()

    @property
    def encoder_mark(self) -> str:
        """Fingerprint of the encoder at use, which is another than that of the training if a part of it was trained."""
        return self.encoder.get("fingerprint_at_use", self.encoder["fingerprint"])

    def runtime(self, graphs: Graphs | None) -> Runtime:
        """The model without PyTorch.

        Args:
            graphs: Of the folder; None of a model that is tables.

        Raises:
            ValueError: It has no graphs.
        """
        if self.tables:
            try:
                return NGramRuntime(tensors(self.path / WEIGHTS), self.model.get("order", 0), self.model["features"])
            except ValueError as error:
                raise ValueError(f"{self.path}: {first_line(error)}") from None
        if self.use is None or graphs is None:
            raise ValueError(
                f"{self.path}: was saved by an earlier version, without the graphs that are used without PyTorch; "
                f"with PyTorch (pip install 'mrnn[train]') it can be used, and mrnn convert {self.path} adds them"
            )
        return OnnxRuntime(graphs, self.model["name"], len(self.vocabulary), self.use)

    def references(self, width: int) -> tuple[Float[np.ndarray, "R F"], Float[np.ndarray, " R"] | None] | None:
        """Image vectors of training photos, if it has any, and how far they are from each other.

        Args:
            width: F.

        Raises:
            ValueError: They are damaged, or of another model.
        """
        path = self.path / REFERENCES
        if not path.is_file():
            return None
        saved = tensors(path)
        found, distances = saved.get("image"), saved.get("distances")
        if found is None or found.ndim != 2 or not len(found) or found.shape[1] != width:
            raise ValueError(f"{path}: no reference images of this model")
        image = found.astype(np.float32)
        if not np.isfinite(image).all():
            raise ValueError(f"{path}: no reference images of this model")
        if distances is None or distances.shape != (len(image),) or not np.isfinite(distances).all():
            return image, None
        return image, distances.astype(np.float32)


def current(folder: Path) -> Path:
    """Where a folder's model lies: in the folder, or, if a kill came before the end of its saving, in one within."""
    return folder / _SAVED if (folder / _SAVED / "config.json").is_file() else folder


@contextlib.contextmanager
def replacing(folder: Path) -> Generator[Path]:
    """Give an empty folder; the model saved in it takes the place of that in `folder` when the block ends well.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _settle(folder)
    made = folder / _SAVING
    made.mkdir()
    try:
        yield made
        made.rename(folder / _SAVED)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _settle(folder)


def _settle(folder: Path) -> None:
    """Bring the files of a model that was saved to their places, and remove what is not of it."""
    made, saved = folder / _SAVING, folder / _SAVED
    shutil.rmtree(made, ignore_errors=True)
    if not (saved / "config.json").is_file():
        return
    files = [path.name for path in saved.iterdir()]
    made.mkdir()
    for name in files:
        try:
            os.link(saved / name, made / name)
        except OSError:  # not every file system has links
            shutil.copyfile(saved / name, made / name)
        (made / name).replace(folder / name)
    for path in folder.iterdir():
        if path.name not in files and _of_a_model(path):
            path.unlink()
    shutil.rmtree(made)  # which still has what was in its place before: a link does not replace itself
    saved.rename(made)
    shutil.rmtree(made, ignore_errors=True)


def _of_a_model(path: Path) -> bool:
    """Whether a file is one that a saved model has; a run's checkpoint is none."""
    return path.suffix in (".onnx", ".safetensors") and path.name != "checkpoint.safetensors"


def read_folder(folder: Path) -> ModelFolder:
    """Read a model's folder, weights and graphs left aside.

    Raises:
        ValueError: It is incomplete or damaged; the message says which file.
    """
    folder = current(folder)
    for file in NEEDED:
        if not (folder / file).is_file():
            if file == WEIGHTS and (pickles := [p.name for p in folder.iterdir() if p.suffix in _PICKLES]):
                raise ValueError(f"{folder}: holds {pickles[0]}, but a pickle is never loaded; save as {WEIGHTS}")
            raise ValueError(f"{folder}: has no {file}, so it is no saved model")
    config = read_json(folder / "config.json")
    found = config.pop("format", None) if isinstance(config, dict) else None
    if found not in (1, FORMAT):
        raise ValueError(f"{folder}/config.json: not of format {FORMAT}; another version of mrnn saved this model")
    files = config.pop("files", None)
    if found == FORMAT:
        _check_hashes(folder, files)
    vocabulary = Vocabulary.load(folder / "vocab.txt")
    try:
        model, encoder = _described(config, "model"), _described(config, "encoder")
        if not isinstance(model["name"], str):
            raise ValueError("'model' has no name")
        if len(vocabulary) != model["vocabulary"]:
            raise ValueError(f"the model has {model['vocabulary']} words, but the vocabulary {len(vocabulary)}")
        _check_encoder(encoder, model)
        if found == FORMAT:
            if not isinstance(config["fingerprint"], str):
                raise ValueError("the fingerprint must be text")
            if "sealed" in encoder and encoder["sealed"] != seal(encoder["preprocessing"], files):
                raise ValueError("the preprocessing is not the one that the encoder was saved with")
        generation, use = _described(config, "generation"), config.pop("use", None)
        confidence = _described(config, "confidence") if config.get("confidence") else config.pop("confidence", None)
        if use is not None and "tables" not in use:
            _check_use(use)
        if use is not None and "tables" in use and model["name"] != NGramRuntime.name:
            raise ValueError(f"a model of the kind {model['name']} is no table")
    except _MISTAKES as error:
        raise ValueError(f"{folder}/config.json: {first_line(error)}") from None
    return ModelFolder(folder, found, vocabulary, model, encoder, generation, use, confidence, config)


def _described(config: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(config.get(name), dict):
        raise ValueError(f"{name!r} is missing, or is no description")
    return dict(config.pop(name))


def seal(preprocessing: Any, files: dict[str, str]) -> str:
    """What ties an encoder's input to its weights."""
    written = json.dumps(preprocessing, sort_keys=True)
    return hashlib.sha256(f"{files.get(ENCODER_WEIGHTS, '')} {written}".encode()).hexdigest()


def _check_hashes(folder: Path, files: Any) -> None:
    if not isinstance(files, dict) or not {"vocab.txt", WEIGHTS} <= files.keys():
        raise ValueError(f"{folder}/config.json: does not say which files belong to it")
    for path in folder.iterdir():
        if path.name not in files and _of_a_model(path):
            raise ValueError(f"{folder}: {path.name} does not belong to the model that was saved; delete it")
    for name, known in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder}: has no {name}, so it is no whole model")
        if sha256(folder / name) != known:
            raise ValueError(f"{folder}: {name} is not the file that was saved with the others; copy or save all anew")


def _check_encoder(encoder: dict[str, Any], model: dict[str, Any]) -> None:
    shape = encoder.get("row", [])
    if not isinstance(shape, list) or not _is_shape([encoder["width"], *shape]) or math.prod(shape) >= _MOST:
        raise ValueError("'encoder' is not what an encoder says of itself")
    if not all(isinstance(encoder[key], str) for key in ("name", "fingerprint")):
        raise ValueError("the encoder's name and fingerprint must be text")
    if encoder["width"] != model["features"]:
        raise ValueError("encoder and model differ in width")
    Preprocessing.from_dict(encoder["preprocessing"])


def _check_use(use: dict[str, Any]) -> None:
    numbers = (use["image_width"], use["opset"], *use["feature_shape"])
    if not _is_shape(numbers):
        raise ValueError("'use' is not what a model says of its graphs")
    for part in use["state"]:
        shape = part["shape"]
        small = all(isinstance(n, int) and 0 <= n < _MOST for n in shape) and math.prod(shape) < _MOST
        if not small or part["type"] not in ("float32", "int64"):
            raise ValueError("'use' is not what a model says of its state")
        if not math.isfinite(part["fill"]):
            raise ValueError("'use' is not what a model says of its state")
    if not all(isinstance(use[key], bool) for key in ("uses_image", "uses_regions")):
        raise ValueError("'use' does not say what the model looks at")


def _is_shape(numbers: Sequence[Any]) -> bool:
    return all(isinstance(n, int) and 0 < n < _MOST for n in numbers)


def copy_folder(source: Path, target: Path, name: str = "") -> None:
    """Copy a saved model.

    Args:
        source: A folder that was read.
        target: The copy; what another model left there goes.
        name: What the copy's card tells people to load; the card is copied if empty.
    """
    if target.exists() and source.samefile(current(target)):
        return
    config = read_json(source / "config.json")
    with replacing(target) as made:
        for file in [*config["files"], "README.md", "config.json"]:
            content = (source / file).read_bytes() if (source / file).is_file() else b""
            if file == "README.md" and name:
                content = model_card(name, config).encode(errors="backslashreplace")
            write_atomically(made / file, content)


def find_folder(name: Path | str) -> Path:
    """The folder of a bundled model, a folder itself, or that of a hub name, fetched.

    Raises:
        ValueError: There is none.
    """
    if isinstance(name, str) and (BUNDLED / name / "config.json").is_file() and name == Path(name).name:
        return BUNDLED / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    bundled = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json")))
    if str(name).count("/") != 1 or folder.is_absolute() or str(name).startswith("."):
        raise ValueError(f"{name}: no such model folder, and none of the bundled models ({bundled})")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ValueError(f"{name}: no such folder; to load it from the hub, pip install 'mrnn[hf]'") from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{name}: no such folder, and the hub does not give it ({first_line(error)})") from None


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file.

    Raises:
        ValueError: It is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({first_line(error)})") from None
