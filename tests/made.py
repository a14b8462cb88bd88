"""Small made photos, data sets and models that several test files share."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mrnn.models import MRNN, MRNNConfig
from mrnn.models.hand import TorchRuntime
from mrnn.networks import load_encoder
from mrnn.pipeline import Pipeline
from mrnn.text import SIGNS, Vocabulary

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200), "yellow": (220, 210, 40)}
WORDS = ["a", "large", "square", "picture", "shows", *COLOURS]


def photo(path: Path, colour: str, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    """A noisy photo of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def flickr(folder: Path, n: int = 24) -> Path:
    """A Flickr-style data set whose captions name the photo's colour; half of it is for training."""
    lines, lists = [], {"train": [], "dev": [], "test": []}
    for i in range(n):
        colour = list(COLOURS)[i % 4]
        name = f"{100000 + i}_0123456789.jpg"
        photo(folder / "images" / name, colour, i)
        lines += [f"{name}#0\ta {colour} square .", f"{name}#1\ta picture shows a large {colour} square ."]
        lists["train" if i < n // 2 else "dev" if i < 3 * n // 4 else "test"].append(name)
    (folder / "Made.token.txt").write_text("\n".join(lines) + "\n")
    for split, names in lists.items():
        (folder / f"Made.{split}Images.txt").write_text("\n".join(names) + "\n")
    return folder


def pipeline(words: list[str] | None = None, references: int = 0) -> Pipeline:
    """A tiny model with random weights on the real default encoder, and random reference images."""
    vocabulary = Vocabulary([*SIGNS, *(words or WORDS)])
    torch.manual_seed(0)
    model = MRNN(MRNNConfig(embedding=4, word=6, recurrent=6, multimodal=8), len(vocabulary), 1280)
    image = torch.randn(references, 8).numpy() if references else None
    return Pipeline(TorchRuntime(model, "mrnn"), vocabulary, load_encoder("efficientnet_lite2"), references=image)


def lines(path, *rows, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))


def captions(corpus):
    return {photo.id: photo.captions for photo in corpus.photos}


def splits(corpus):
    return {photo.id: photo.split for photo in corpus.photos}
