"""ONNX Runtime's hand: the graphs of a saved model at use, on a processor or any provider that is installed.

Shapes: as in `protocol.py`; S side of the input.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrnn.files import first_line
from mrnn.runtime.protocol import Array, DeviceError, Precision, Runtime, State
from mrnn.shapes import Float, Int
from mrnn.threads import cores

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
ENCODER, ROUNDED = "encoder", "rounded_encoder"
SUM = 200  # what a rounded encoder gives for its largest sum of products, unless that overflows


def has_device(name: str) -> bool:
    """Whether ONNX Runtime can compute on a device here."""
    import onnxruntime

    return name == "auto" or PROVIDERS.get(name) in onnxruntime.get_available_providers()


class Graphs:
    """The graphs of a model's folder, each loaded when it is first run.

    Args:
        folder: Of the model.
        device: `cpu`, `cuda` or `mps`, or `auto` for what is installed.

    Raises:
        DeviceError: The provider is not installed.
    """

    def __init__(self, folder: Path, device: str = "auto"):
        import onnxruntime

        installed = onnxruntime.get_available_providers()
        if device == "auto":
            device = "cuda" if PROVIDERS["cuda"] in installed else "cpu"
        if PROVIDERS.get(device) not in installed:
            names = [name for name, provider in PROVIDERS.items() if provider in installed]
            raise DeviceError(f"onnxruntime has no provider for the device {device!r} here; it has {', '.join(names)}")
        self.folder, self.device = folder, device
        self._sessions: dict[tuple[str, int], Future[tuple[Any, list[str]]]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="graphs")

    def has(self, name: str) -> bool:
        """Whether the model has such a graph."""
        return (self.folder / f"{name}.onnx").is_file()

    @property
    def encoder(self) -> str:
        """The graph that encodes photos here."""
        return ROUNDED if self.device == "cpu" and self.has(ROUNDED) else ENCODER

    def prepare(self, *names: str, threads: int = 0) -> None:
        """Begin to load graphs that will be run, while the caller does something else."""
        with self._lock:
            for name in names:
                if (name, threads) not in self._sessions:
                    self._sessions[name, threads] = self._pool.submit(self._load, name, threads)

    def run(self, name: str, threads: int = 0, /, **inputs: Array) -> list[Array]:
        """Run a graph.

        Args:
            name: Of the graph.
            threads: That compute; as many as there are cores if 0.
            inputs: By name.

        Raises:
            ValueError: It cannot be loaded, or does not fit the vocabulary or the features.
        """
        self.prepare(name, threads=threads)
        session, taken = self._sessions[name, threads].result()
        try:
            return session.run(None, {key: np.ascontiguousarray(inputs[key]) for key in taken})
        except Exception as error:  # onnxruntime has a class of its own for every way to fail
            raise ValueError(
                f"{self.folder / name}.onnx: does not fit what it is given ({first_line(error)})"
            ) from None

    def _load(self, name: str, threads: int) -> tuple[Any, list[str]]:
        import onnxruntime

        path = self.folder / f"{name}.onnx"
        if not path.is_file():
            raise ValueError(f"{self.folder}: has no {path.name}; mrnn convert {self.folder} writes it, with PyTorch")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # which holds more than it saves time
        # A session has threads of its own: those that wait would take the cores from those of the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            again = self.device != "cpu"  # on a processor, which a processor need not try again, and tell of on stdout
            session = onnxruntime.InferenceSession(
                path, options, providers=[PROVIDERS[self.device]], enable_fallback=again
            )
            # What does not change the result is no input of the graph.
            return session, [node.name for node in session.get_inputs()]
        except Exception as error:  # onnxruntime has a class of its own for every way a file may be bad
            reason = first_line(error)
            if "opset" in reason.lower():
                reason = f"onnxruntime {onnxruntime.__version__} is too old for it"
            raise ValueError(f"{path}: does not fit its weights, or cannot be run here ({reason})") from None


class OnnxRuntime(Runtime):
    """A saved model at use.

    Args:
        graphs: Of its folder.
        name: As registered.
        vocabulary: V.
        described: What `config.json` says for this hand.
    """

    def __init__(self, graphs: Graphs, name: str, vocabulary: int, described: dict[str, Any]):
        self.graphs, self.name, self.vocabulary = graphs, name, vocabulary
        self.feature_shape = tuple(described["feature_shape"])
        self.image_width = described["image_width"]
        self.uses_image, self.uses_regions = described["uses_image"], described["uses_regions"]
        self._state = [(tuple(s["shape"]), s["fill"], np.dtype(s["type"])) for s in described["state"]]

    @property
    def device(self) -> str:
        """Of the graphs."""
        return self.graphs.device

    def prepare(self, task: Literal["caption", "search"] = "caption") -> None:
        """The graphs, and the encoder's beside them."""
        wanted = (
            (self.graphs.encoder, "search", "log_p", "image", "text")
            if task == "caption"
            else ("text", "gradient", "score")
        )
        self.graphs.prepare(*(name for name in wanted if self.graphs.has(name)))

    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """Some hundreds at a time."""
        if not len(features) or not self.uses_image:
            return np.zeros((len(features), self.image_width), np.float32)
        some = (np.asarray(features[i : i + 512], np.float32) for i in range(0, len(features), 512))
        return np.concatenate([self.graphs.run("image", features=part)[0] for part in some])

    def encode_cells(self, features: Float[Array, "C ..."]) -> Float[Array, "C F"]:
        """By a graph of its own where cells are another matter than photos."""
        if not self.graphs.has("cells"):
            return self.encode_image(features)
        return self.graphs.run("cells", features=features)[0]

    def begin(self, n: int) -> State:
        """As the model says of itself."""
        return [np.full((n, *shape), fill, dtype) for shape, fill, dtype in self._state]

    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """Rows of every array."""
        return [s[rows] for s in state]

    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B M"], State]:
        """One word long."""
        text, *after = self.graphs.run("text", words=words, **_named(state))
        return text, after

    def distribution(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R V"]:
        """The whole of it."""
        return self.graphs.run("distribution", text=text, image=image)[0]

    def pull(
        self, text: Float[Array, "R M"], image: Float[Array, "R F"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R F"]:
        """As the model wrote it out."""
        return self.graphs.run("pull", text=text, image=image, raised=raised)[0]

    def step(
        self,
        words: Int[Array, " B"],
        state: State,
        image: Float[Array, "B F"],
        k: int,
        allowed: Float[Array, " V"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"], State]:
        """All in one graph; rounded, the softmax layer's product is taken in whole numbers."""
        k = min(k, self.vocabulary)
        inputs = {"words": words, "image": image, "allowed": allowed, "k": np.array(k), **_named(state)}
        rounded = precision == "auto" and self.graphs.has("search")
        top, ids, *after = self.graphs.run("search" if rounded else "step", **inputs)
        return top, ids.view(np.int64), after

    def log_p(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        row: Int[Array, " E"],
        target: Int[Array, " E"],
        precision: Precision = "float32",
    ) -> Float[Array, " E"]:
        """All in one graph; rounded, the normaliser's product is taken in whole numbers."""
        rounded = precision == "auto" and self.graphs.has("score")
        return self.graphs.run("score" if rounded else "log_p", text=text, image=image, row=row, target=target)[0]

    def gradient(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        target: Int[Array, " R"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, " R"], Float[Array, "R F"]]:
        """All in one graph."""
        log_p, q = self.graphs.run("gradient", text=text, image=image, target=target)
        return log_p, q

    def branch(self, words: Int[Array, " T"]) -> Float[Array, "T M"] | None:
        """If the model tells it apart."""
        return self.graphs.run("branch", words=words)[0] if self.graphs.has("branch") else None

    def attention(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R K"] | None:
        """If the model has any."""
        return self.graphs.run("attention", text=text, image=image)[0] if self.graphs.has("attention") else None


class OnnxNetwork:
    """An encoder's network in a model's folder: on a processor in 8-bit numbers, if the model has it so.

    Args:
        graphs: Of the folder.
    """

    def __init__(self, graphs: Graphs):
        self.graphs, self.rounded = graphs, graphs.encoder == ROUNDED
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="encoder")

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Of (N, S, S, 3) bytes."""
        if self.graphs.device != "cpu":
            found = self.graphs.run(ENCODER, pixels=pixels)
        else:
            # A thread a photo takes less than all threads for one after the other, and each photo's features are the
            # same whatever is beside it.
            one_by_one = self._pool.map(lambda one: self._run(one[None], min(len(pixels) - 1, 1)), pixels)
            found = [np.concatenate(parts) for parts in zip(*one_by_one, strict=True)]
        pooled, *grid = found
        return pooled, grid[0] if grid else None

    def _run(self, pixels: np.ndarray, threads: int) -> list[np.ndarray]:
        if self.rounded:
            *found, sums = self.graphs.run(ROUNDED, threads, pixels=pixels)
            self.rounded = bool((sums == SUM).all())  # else sums of 8-bit products overflow on this processor
            if self.rounded:
                return found
        return self.graphs.run(ENCODER, threads, pixels=pixels)


def _named(state: State) -> dict[str, Array]:
    return {f"state_{i}": s for i, s in enumerate(state)}
