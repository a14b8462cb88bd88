"""Photo files to captions: the pipeline against one photo at a time through the plain network."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import seconds
from mrnn.encoders import pool_features
from mrnn.networks import efficientnet_lite
from mrnn.pipeline import load


def made_photos(folder: Path, n: int) -> list[Path]:
    """JPEG files of 640 x 480 pixels with the detail of real photos: smooth noise of several scales."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        layers = [Image.fromarray(rng.integers(0, 255, (h, h * 4 // 3, 3), np.uint8)) for h in (4, 16, 64)]
        pixels = sum(np.asarray(layer.resize((640, 480), Image.Resampling.BICUBIC), float) for layer in layers) / 3
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1], quality=85)
    return paths


def main() -> None:
    """Print photos a second of both bundled models, by either runtime, and of the plain way."""
    network = efficientnet_lite.load([2])
    with tempfile.TemporaryDirectory() as folder:
        paths = made_photos(Path(folder), 96)

        def ours(pipe):
            features, _, _ = pool_features(pipe.encoder, paths)
            pipe.caption_features(features)

        def plain(pipe):
            for path in paths[:24]:
                pixels = torch.from_numpy(network.preprocessing(path).copy()).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    pooled, _ = network((pixels - 127.0) / 128.0)
                pipe.caption_features(pooled.numpy())

        slow = 24 / seconds(lambda: plain(load("flickr8k", "torch", "cpu")), 1)
        print(f"photos      one by one through the plain network {slow:.1f} photos/s", flush=True)
        for name in ("flickr8k", "base"):
            onnx, hand = (load(name, runtime, "cpu") for runtime in ("onnx", "torch"))
            fast, other = (len(paths) / seconds(lambda p=p: ours(p), 3) for p in (onnx, hand))
            print(
                f"photos      {name}: onnx {fast:.1f} photos/s, torch {other:.1f} photos/s: {fast / other:.2f} x",
                flush=True,
            )
