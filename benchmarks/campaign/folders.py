"""Folders of saved models, one of whose files is damaged or says odd things; half of them with hashes that fit."""

import copy
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.campaign import Report, hunt
from benchmarks.campaign.mutate import damaged, drawn, odd_json, written
from mrnn.encoders import Encoder
from mrnn.files import sha256
from mrnn.images import Preprocessing
from mrnn.models import MRNN, MRNNConfig, NGram, NGramConfig
from mrnn.models.hand import TorchRuntime
from mrnn.networks.torch_network import torch_encoder
from mrnn.pipeline import Pipeline, load
from mrnn.text import SIGNS, Vocabulary

SHARE = 0.1  # of a campaign's time
WORDS = ["a", "dog", "in", "the", "snow"]
FEATURES = 3


def run(seconds: float, seed: int) -> Report:
    """Load damaged models, and have those that load write a caption."""
    return hunt("folders", seconds, seed)


class _Mean(torch.nn.Module):
    """A network of nothing but the mean colour."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.ones(FEATURES))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x.mean((2, 3)) * self.share, None


def tiny_model(seed: int, words: list[str]) -> Pipeline:
    """A model of nothing but a few numbers, with its encoder."""
    torch.manual_seed(seed)
    vocabulary, preprocessing = Vocabulary([*SIGNS, *words]), Preprocessing(8, (0.0,) * 3, (1.0,) * 3)
    encoder: Encoder = torch_encoder("mean", _Mean(), preprocessing, FEATURES)
    sizes = MRNNConfig(embedding=4, word=6, recurrent=6, multimodal=8)
    references = np.random.default_rng(seed).standard_normal((5, 8)).astype(np.float32)
    model = MRNN(sizes, len(vocabulary), FEATURES)
    return Pipeline(TorchRuntime(model, "mrnn"), vocabulary, encoder, references=references)


@functools.cache
def saved() -> list[Path]:
    """Models, made once a process: by gradient, and of tables."""
    torch.set_num_threads(1)
    place, made = Path(tempfile.mkdtemp(prefix="mrnn-campaign-models-")), tiny_model(0, WORDS)
    made.save(place / "mrnn")
    counted = NGram(NGramConfig(), len(made.vocabulary), FEATURES)
    Pipeline(TorchRuntime(counted, "ngram"), made.vocabulary, made.encoder).save(place / "ngram")
    return sorted(place.iterdir())


def make(seed: int, number: int, folder: Path) -> Path:
    """A model with damage in one of its files."""
    draw = drawn(seed, number)
    source = draw.choice(saved())
    place = folder / "model"
    shutil.copytree(source, place)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    said = copy.deepcopy(config)
    file = draw.choice(sorted(path.name for path in place.iterdir()))
    if file == "config.json":
        kept = config["files"]
        config = odd_json(config, draw, draw.choice((0.01, 0.03, 0.1)))
        if isinstance(config, dict) and draw.random() < 0.7:
            config |= {"files": kept, "format": said["format"]}
        content = written(config, draw)
        (place / file).write_bytes(damaged(content, draw) if draw.random() < 0.2 else content)
        return place
    (place / file).write_bytes(damaged((place / file).read_bytes(), draw))
    if draw.random() < 0.6 and file in said["files"]:
        said["files"][file] = sha256(place / file)
        (place / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return place


def check(path: Path) -> str:
    """Load the model by either hand, and write a caption."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for hand in ("onnx", "torch") if path.stat().st_ino % 4 else ("torch", "onnx"):
        try:
            found = load(os.fspath(path), hand, "cpu")
            found.caption_features(np.ones((1, FEATURES), np.float32))
            found.caption(pixels)
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                return f"several lines: {error}"
    return ""
