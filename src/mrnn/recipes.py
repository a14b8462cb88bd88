"""Named frozen configurations, and the one way to turn a recipe and a data set into a trained model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mrnn.corpora import Corpus, Photo
from mrnn.encoders import FeatureCache, load_encoder
from mrnn.generation import GenerationConfig
from mrnn.images import ImageError
from mrnn.models import MODELS, ModelConfig, MRNNConfig, NeuralLanguageModel, model_name
from mrnn.pipeline import Pipeline, code_version
from mrnn.text import Vocabulary, tokenise
from mrnn.training import CaptionData, Progress, TrainingConfig, train
from mrnn.training.curves import plot_curves

SIDED = {"left", "right", "leftmost", "rightmost"}


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a model besides the data.

    Args:
        encoder: Name of the encoder, as `load_encoder` takes it.
        min_count: How often a word must occur in the training captions to be known.
        mirror: Train on every photo's mirror image too, for captions that say neither left nor right.
        model: Sizes and options.
        training: How to train.
        generation: How captions are searched for by default.
        references: Training photos, drawn by the training's seed, whose image vectors the model carries for P(w).
    """

    encoder: str = "efficientnet_lite2"
    min_count: int = 5
    mirror: bool = False
    model: ModelConfig = field(default_factory=MRNNConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    references: int = 1000

    def __post_init__(self):
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}, but must be 1 or more")
        if self.generation.image_gain != 1 and not self.references:
            raise ValueError("generation.image_gain needs the mean training image, so references must be above 0")
        if self.references < 0:
            raise ValueError(f"references is {self.references}, but must be 0 or more")


def flickr8k() -> Recipe:
    """The paper's m-RNN on Flickr8K.

    mrnn train flickr8k --data DIR/flickr8k --out runs/flickr8k

    Six minutes on two cores from cached features. Dev perplexity 15.54; test perplexity 14.98, BLEU-4 .203, CIDEr .533,
    R@1 28.2 image to sentence and 21.9 sentence to image.
    """
    return Recipe(
        mirror=True,
        model=MRNNConfig(dropout_word=0.25, dropout_image=0.4, dropout_multimodal=0.5),
        training=TrainingConfig(epochs=18, learning_rate=3e-3, weight_decay=0.4, patience=6),
        generation=GenerationConfig(length_exponent=0.85, image_gain=1.15),
    )


def base() -> Recipe:
    """The same model on Flickr8K and COCO together: the default of every verb.

    mrnn train base --data DIR/flickr8k --data DIR/coco --out runs/base

    Dev perplexity 15.26. Flickr8K test: perplexity 15.00, BLEU-4 .202, CIDEr .532; COCO test (250 photos of our own
    split): 15.38, .220, .688.
    """
    return flickr8k()


RECIPES: dict[str, Callable[[], Recipe]] = {"flickr8k": flickr8k, "base": base}


@dataclass(frozen=True)
class Split:
    """A split's photos that could be encoded, with their features.

    Args:
        photos: N photos.
        features: (N, D) float32.
        errors: The photos left out.
    """

    photos: list[Photo]
    features: torch.Tensor
    errors: list[ImageError]


def encode_split(
    corpus: Corpus,
    split: str,
    cache: FeatureCache,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Split:
    """Features of a split's photos, from the cache or encoded now.

    Raises:
        ValueError: The split is empty, or none of its photos can be used.
    """
    photos = corpus.split(split)
    features, usable, errors = cache.features([photo.path for photo in photos], progress)
    if not usable:
        raise ValueError(f"none of the {len(photos)} photos of the split {split!r} can be used ({errors[0]})")
    return Split([photos[i] for i in usable], torch.from_numpy(features).float(), errors)


def caption_data(split: Split, vocabulary: Vocabulary, mirrored: torch.Tensor | None = None) -> CaptionData:
    """A split's captions as ids; captions without a word are left out.

    Args:
        split: Photos, captions, features.
        vocabulary: Of the model.
        mirrored: (N, D) features of the mirror images, as a second view of every photo.
    """
    pairs = [(i, tokenise(c)) for i, photo in enumerate(split.photos) for c in photo.captions]
    pairs = [(i, tokens) for i, tokens in pairs if tokens]
    sentences, images = [vocabulary.encode(tokens) for _, tokens in pairs], [i for i, _ in pairs]
    if mirrored is None:
        return CaptionData(sentences, images, split.features)
    features = torch.stack([split.features, mirrored], 1).flatten(0, 1)
    return CaptionData(sentences, images, features, 2, [1 if SIDED & set(tokens) else 2 for _, tokens in pairs])


def train_recipe(
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    out: Path,
    command: str = "",
    cache_folder: Path | None = None,
    device: torch.device | str = "cpu",
    on_features: Callable[[int, int], None] = lambda done, total: None,
    on_errors: Callable[[Sequence[ImageError]], None] = lambda errors: None,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Pipeline:
    """Train a model, or go on with a run that was stopped, and save it in `out`.

    Args:
        name: Of the recipe.
        recipe: What to train.
        corpus: With a train and a dev split.
        out: Folder of the model, its checkpoint, log and curves.
        command: What was typed, for the model card.
        cache_folder: Of the feature cache.
        device: To train on.
        on_features: Called as photos are encoded, with how many are done and how many there are.
        on_errors: Called with the photos that cannot be used.
        on_step: Called with every record of the training log.

    Raises:
        ValueError: The data cannot be trained on, the loss is not finite, or `out` holds another run.
    """
    encoder = load_encoder(recipe.encoder).to(device)
    cache = FeatureCache(encoder, cache_folder)
    train_split = encode_split(corpus, "train", cache, on_features)
    dev_split = encode_split(corpus, "dev", cache, on_features)
    on_errors([*train_split.errors, *dev_split.errors])
    tokens = (tokenise(caption) for photo in train_split.photos for caption in photo.captions)
    vocabulary = Vocabulary.build(tokens, recipe.min_count)
    mirrored = None
    if recipe.mirror:
        paths = [photo.path for photo in train_split.photos]
        rows, _, _ = FeatureCache(encoder, cache_folder, mirror=True).features(paths, on_features)
        mirrored = torch.from_numpy(rows).float()
    data, dev = caption_data(train_split, vocabulary, mirrored), caption_data(dev_split, vocabulary)
    torch.manual_seed(recipe.training.seed)
    model = MODELS[model_name(recipe.model)](recipe.model, len(vocabulary), encoder.width)
    assert isinstance(model, NeuralLanguageModel)
    model.to(device)
    # How captions are searched for may change without training again.
    trained = {key: value for key, value in asdict(recipe).items() if key != "generation"}
    run = {"recipe": trained, "encoder": encoder.fingerprint, "data": corpus.fingerprint}
    on_step = with_tensorboard(out, on_step)
    progress = train(model, vocabulary, data, dev, recipe.training, out, run, on_step)
    plot_curves(out / "log.jsonl", out / "curves.png")
    provenance = {"training": _provenance(name, recipe, corpus, command, progress), "code": code_version()}
    references = _references(model, train_split.features, recipe)
    pipeline = Pipeline(model, vocabulary, encoder, recipe.generation, provenance, references)
    pipeline.save(out)
    return pipeline


def _references(model: NeuralLanguageModel, features: torch.Tensor, recipe: Recipe) -> torch.Tensor | None:
    if not recipe.references:
        return None
    generator = torch.Generator().manual_seed(recipe.training.seed)
    chosen = torch.randperm(len(features), generator=generator)[: recipe.references]
    with torch.inference_mode():
        return model.encode_image(features[chosen].to(model.feature_mean.device)).cpu()


def _provenance(name: str, recipe: Recipe, corpus: Corpus, command: str, progress: Progress) -> dict[str, Any]:
    return {
        "recipe_name": name,
        "recipe": asdict(recipe),
        "command": command,
        "data": corpus.summary(),
        "data_fingerprint": corpus.fingerprint,
        "dev_perplexity": progress.best_perplexity,
        "best_epoch": progress.best_epoch,
        "steps": progress.step,
    }


def with_tensorboard(out: Path, on_step: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Send the log's numbers to TensorBoard too, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return on_step
    writer = SummaryWriter(str(out / "tensorboard"))

    def both(record: dict[str, Any]) -> None:
        on_step(record)
        for key in ("bits", "learning_rate", "tokens_per_second", "dev_perplexity"):
            if key in record:
                writer.add_scalar(key, record[key], record["step"])
        if "dev_perplexity" in record:
            writer.flush()

    return both
