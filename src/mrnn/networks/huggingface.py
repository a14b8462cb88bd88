"""Any vision model that transformers can load: CLIP, SigLIP, DINOv2, ViT, ConvNeXt and their like.

Pooled features are the model's own image embedding where it has one (CLIP, SigLIP), else its pooler's output, or, of
a checkpoint without a pooler (a classifier's), the class token; the grid is the last layer's patch vectors, without
class and register tokens.

Shapes: N images, S side of the input, D feature width, P patches, G x G grid of patches.
"""

import contextlib
import inspect
import json
import math
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mrnn.files import first_line
from mrnn.images import Preprocessing

_PILLOW = {2: "bilinear", 3: "bicubic"}
# Of a configuration: what changes no feature.
_SAYS_NOTHING = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
)


class VisionTower(nn.Module):
    """The image half of a transformers model.

    Args:
        model: What `AutoModel` gave.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        # Two-tower models: keep the image half, so that text weights cost no memory and no fingerprint.
        self.tower = getattr(model, "vision_model", model)
        self.projection = getattr(model, "visual_projection", None)
        self.without_pooler = False

    def drop_pooler(self) -> None:
        """Leave the pooler out, of which the checkpoint has no weights."""
        self.without_pooler = True
        self.tower.pooler = None  # ty: ignore[invalid-assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled (N, D) and grid (N, C, G, G) of normalised photos (N, 3, S, S)."""
        output = self.tower(pixel_values=x)
        last, pooled = output.last_hidden_state, output.pooler_output
        if last.ndim == 4:  # ConvNeXt and other convolutional networks: already (N, C, G, G)
            return pooled.flatten(1), last
        if pooled is None:
            pooled = last[:, 0]
        if self.projection is not None:
            pooled = self.projection(pooled)
        side = math.isqrt(last.shape[1])  # class and register tokens stand before the patches
        patches = last[:, last.shape[1] - side * side :]
        return pooled, patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)

    def blocks(self) -> nn.Sequential:
        """From normalised photos to pooled features: what embeds them, one layer after the other, and the rest.

        Raises:
            ValueError: The model is not built like those named above.
        """
        layers = next((module for module in self.tower.modules() if isinstance(module, nn.ModuleList)), None)
        norm = getattr(self.tower, "layernorm", getattr(self.tower, "post_layernorm", None))
        embeddings = getattr(self.tower, "embeddings", None)
        if self.without_pooler:
            raise ValueError("the checkpoint has no pooler, so the model cannot be trained from a layer on")
        if layers is None or norm is None or embeddings is None:
            raise ValueError(
                f"{type(self.tower).__name__} does not tell its layers, so it cannot be trained from one on"
            )
        before = nn.Sequential(embeddings, getattr(self.tower, "pre_layrnorm", nn.Identity()))
        pooler = getattr(self.tower, "head", getattr(self.tower, "pooler", None))
        return nn.Sequential(before, *map(_Layer, layers), _Pooling(norm, pooler, self.projection))


class _Layer(nn.Module):
    """A layer by itself, which in transformers may ask for masks and may answer with a tuple."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        needed = inspect.signature(layer.forward).parameters.values()
        self.masks = sum(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in needed) - 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x, *[None] * self.masks)
        return y[0] if isinstance(y, tuple) else y


class _Pooling(nn.Module):
    """Pooled features (N, D) of the last layer's patches (N, P, C), or of its map (N, C, G, G)."""

    def __init__(self, norm: nn.Module, pooler: nn.Module | None, projection: nn.Module | None):
        super().__init__()
        self.norm, self.pooler, self.projection = norm, pooler, projection

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x if x.ndim == 3 else x.mean((2, 3)))
        if x.ndim == 3:
            x = x[:, 0] if self.pooler is None else self.pooler(x)
        return x if self.projection is None else self.projection(x)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Without transformers' bars, which it draws off a terminal too, its report of what a checkpoint lacks, and its
    question whether to run a model's own code, which is never run.
    """
    from transformers.utils import logging

    code: Any = import_module("transformers.dynamic_module_utils")

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    patience, code.TIME_OUT_REMOTE_CODE = code.TIME_OUT_REMOTE_CODE, 0
    try:
        yield
    finally:
        code.TIME_OUT_REMOTE_CODE = patience
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def without_weights(source: str) -> VisionTower:
    """The image half of a hub model or local folder, with weights of no meaning.

    Raises:
        ValueError: transformers is not installed, or the configuration cannot be had.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise ValueError("huggingface encoders need transformers: pip install 'mrnn[hf]'") from None
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            return VisionTower(AutoModel.from_config(config, trust_remote_code=False))
    except Exception as error:  # a damaged folder makes transformers raise almost anything
        raise ValueError(f"huggingface:{source} cannot be loaded ({first_line(error)})") from None


def load(source: str | None) -> tuple[VisionTower, int, Preprocessing, str]:
    """The image half of a hub model or local folder, its width D, its own preprocessing, and its configuration.

    Raises:
        ValueError: No model is named, transformers is not installed, or the model cannot be had, or not all of it.
    """
    if not source:
        raise ValueError("name the model too: huggingface:openai/clip-vit-base-patch32, or huggingface:FOLDER")
    try:
        from transformers import AutoModel
        from transformers.utils import cached_file
    except ImportError:
        raise ValueError("huggingface encoders need transformers: pip install 'mrnn[hf]'") from None
    try:
        with quiet():
            model, loaded = AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        preprocessing = _preprocessing(_json(cached_file(source, "preprocessor_config.json")))
        # What the checkpoint's own file says, not what this version of transformers adds to it.
        written = _json(cached_file(source, "config.json"))
        written = {k: v for k, v in written.get("vision_config", written).items() if k not in _SAYS_NOTHING}
    except Exception as error:  # a damaged folder makes transformers raise almost anything
        raise ValueError(f"huggingface:{source} cannot be loaded ({first_line(error)})") from None
    tower = VisionTower(model)
    # What the checkpoint lacks, transformers has drawn at random, anew at every loading.
    drawn = [name for name in loaded["missing_keys"] if not name.startswith("text_model.")]
    if lacking := sorted(name for name in drawn if not name.startswith("pooler.")):
        raise ValueError(f"huggingface:{source}: the checkpoint lacks {len(lacking)} tensors, such as {lacking[0]}")
    if drawn:
        tower.drop_pooler()
    config = getattr(model.config, "vision_config", model.config)
    width = tower.projection.out_features if tower.projection is not None else _width(config)
    return tower, width, preprocessing, json.dumps(written, sort_keys=True)


def _json(file: str | None) -> dict[str, Any]:
    assert file is not None
    return json.loads(Path(file).read_text(encoding="utf-8"))


def _width(config) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    return sizes[-1] if sizes else config.hidden_size


def _preprocessing(config: dict) -> Preprocessing:
    size, crop = config.get("size", {}), config.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    shorter = size.get("shortest_edge")
    side = crop["height"] if crop and config.get("do_center_crop", True) else shorter or size["height"]
    scale = (shorter or side) / side
    # ConvNeXt below 384 scales the shorter side to side / crop_pct before it cuts the centre out; else it squashes.
    if crop_pct := config.get("crop_pct"):
        shorter, scale = (shorter, 1 / crop_pct) if side < 384 else (None, 1.0)
    grey = [0.5, 0.5, 0.5]
    mean, std = ([255.0 * x for x in config.get(key) or grey] for key in ("image_mean", "image_std"))
    return Preprocessing(
        side=side,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        resize="squash" if shorter is None else "crop",
        interpolation=_PILLOW.get(config.get("resample", 3), "bicubic"),
        scale=scale,
    )
