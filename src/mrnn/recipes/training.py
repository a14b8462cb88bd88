"""The one way to turn a recipe and a data set into a trained model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from mrnn.corpora import Corpus, Photo
from mrnn.corpora.sentences import read_sentences
from mrnn.encoders import Encoder, FeatureCache, load_encoder, located
from mrnn.encoders.split import Stem
from mrnn.files import read_json, sha256
from mrnn.images import ImageError
from mrnn.likelihood import pair_log_likelihood, perplexity
from mrnn.models import (
    MODELS,
    ClassesConfig,
    LanguageModel,
    MRNNClasses,
    NeuralLanguageModel,
    NGram,
    TunedConfig,
    TunedMRNN,
    class_words,
    model_name,
)
from mrnn.pipeline import Pipeline, code_version, load
from mrnn.recipes.recipe import Recipe, before
from mrnn.text import Vocabulary, tokenise
from mrnn.training import CaptionData, Progress, train
from mrnn.training.curves import plot_curves
from mrnn.training.loop import log_frequencies
from mrnn.training.warm_start import warm_start

SIDED = {"left", "right", "leftmost", "rightmost"}


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
    text: Sequence[Path] = (),
    workers: int = 0,
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
        on_step: Called with every record of the training log; those of a recipe that comes before name it, as `recipe`.
        text: Files of captions without photos, which are learned at the mean image. Those of photos that the corpus
            holds out are left out. A model with class words learns their words too; to others they are unknown. Of a
            recipe that comes after another, the first learns them.
        workers: Processes that decode photos; 0 leaves that to threads.

    Raises:
        ValueError: The data cannot be trained on, the loss is not finite, or `out` holds another run.
    """
    recipe = replace(recipe, encoder=located(recipe.encoder))
    if isinstance(recipe.model, TunedConfig):
        recipe = replace(recipe, model=replace(recipe.model, encoder=located(recipe.model.encoder)))
    # Before what this comes after is trained.
    kind = MODELS[model_name(recipe.model)]
    _check_folder(out, name, kind)
    encoder = load_encoder(recipe.encoder).to(device)
    _check_fit(recipe, kind, encoder)
    start = load(recipe.start) if recipe.start else None
    if recipe.after and start is None:
        from mrnn.recipes import RECIPES

        if recipe.after not in RECIPES:
            raise ValueError(f"no recipe {recipe.after!r} to come after; there are {', '.join(RECIPES)}")
        if (out / "checkpoint.safetensors").exists() and not (out / "start").exists():
            raise ValueError(f"{out}: holds another run; give another --out, or delete it")
        usual = RECIPES[name]() if name in RECIPES else recipe
        start = train_recipe(
            recipe.after,
            before(RECIPES[recipe.after](), usual, recipe),
            corpus,
            out / "start",
            command,
            cache_folder,
            device,
            on_features,
            on_errors,
            lambda record: on_step({"recipe": recipe.after, **record}),
            text,
            workers,
        )
        text = ()
    cache = FeatureCache(encoder, cache_folder, workers=workers)
    train_split = encode_split(corpus, "train", cache, on_features)
    dev_split = encode_split(corpus, "dev", cache, on_features)
    on_errors([*train_split.errors, *dev_split.errors])
    held_out = {photo.key for photo in corpus.photos if photo.split != "train"}
    sentences = [tokens for path in text for s in read_sentences(path, held_out) if (tokens := tokenise(s))]
    captions = (tokenise(caption) for photo in train_split.photos for caption in photo.captions)
    # A word that no photo was captioned with can be meant only by a model whose classifier speaks for it.
    spoken = chain(captions, sentences) if isinstance(recipe.model, ClassesConfig) else captions
    vocabulary = Vocabulary.build(spoken, recipe.min_count)
    if start is not None:  # what it knows is not forgotten, even if these captions do not say it
        known = set(start.vocabulary.tokens)
        vocabulary = Vocabulary([*start.vocabulary.tokens, *(t for t in vocabulary.tokens if t not in known)])
    mirrored = None
    if recipe.mirror:
        paths = [photo.path for photo in train_split.photos]
        rows, _, _ = FeatureCache(encoder, cache_folder, True, workers).features(paths, on_features)
        mirrored = torch.from_numpy(rows).float()
    data, dev = caption_data(train_split, vocabulary, mirrored), caption_data(dev_split, vocabulary)
    if sentences:
        data = data.with_text([vocabulary.encode(tokens) for tokens in sentences])
    torch.manual_seed(recipe.training.seed)
    config = recipe.model
    if isinstance(config, ClassesConfig):
        words, ids = class_words(vocabulary)
        config = replace(config, words=words, ids=ids)
    model = MODELS[model_name(config)](config, len(vocabulary), encoder.width)
    if isinstance(model, MRNNClasses):
        classifier: Any = encoder.network._fc
        model.classifier_weight.copy_(classifier.weight)
        model.classifier_bias.copy_(classifier.bias)
    if isinstance(model, TunedMRNN):
        assert isinstance(encoder, Stem)
        model.tail.load_state_dict(encoder.tail.state_dict())
    model.to(device)
    if isinstance(model, NGram):
        progress = _count(model, vocabulary, data, dev)
        provenance = {"training": _provenance(name, recipe, corpus, command, progress), "code": code_version()}
        pipeline = Pipeline(model, vocabulary, encoder, recipe.generation, provenance)
        pipeline.save(out)
        return pipeline
    assert isinstance(model, NeuralLanguageModel)
    # How captions are searched for may change without training again.
    trained = {key: value for key, value in asdict(recipe).items() if key != "generation"}
    run = {"recipe": trained, "encoder": encoder.fingerprint, "data": corpus.fingerprint}
    run["features"] = [_digest(features) for features in (data.features, dev.features)]
    if text:
        run["text"] = [sha256(path) for path in text]
    on_step = with_tensorboard(out, on_step)
    if start is not None:
        if not isinstance(start.model, NeuralLanguageModel):
            raise ValueError(f"{recipe.start or recipe.after}: a model that counts words has no weights to start from")
        model.fit_features(data.features.to(device))
        model.set_output_bias(log_frequencies(data, vocabulary).to(device))
        warm_start(model, vocabulary, start.model, start.vocabulary)
        run["start"] = start.fingerprint
    progress = train(model, vocabulary, data, dev, recipe.training, out, run, on_step, fresh=start is None)
    plot_curves(out / "log.jsonl", out / "curves.png")
    provenance = {"training": _provenance(name, recipe, corpus, command, progress), "code": code_version()}
    references = _references(model, train_split.features, recipe) if model.uses_image else None
    pipeline = Pipeline(model, vocabulary, encoder, recipe.generation, provenance, references)
    pipeline.save(out)
    return pipeline


def _check_folder(out: Path, name: str, kind: type[LanguageModel]) -> None:
    """Refuse a folder of something else, before a photo is encoded."""
    checkpoint, config = (out / "checkpoint.safetensors").exists(), out / "config.json"
    if issubclass(kind, NGram):  # leaves no checkpoint, and may be counted again
        ours = not checkpoint and not config.exists()
        if not ours and not checkpoint and isinstance(facts := read_json(config), dict):
            ours = isinstance(training := facts.get("training"), dict) and training.get("recipe_name") == name
    else:
        ours = checkpoint or not any((out / file).exists() for file in ("config.json", "README.md", "vocab.txt"))
    if not ours:
        raise ValueError(f"{out}: holds another run, or something else; give another --out, or delete it")


def _check_fit(recipe: Recipe, kind: type[LanguageModel], encoder: Encoder) -> None:
    """Refuse a model that cannot take what the encoder gives, before a photo is encoded."""
    if isinstance(recipe.model, TunedConfig):
        needed = f"stem:{recipe.model.block}:{recipe.model.encoder}"
        if not isinstance(encoder, Stem) or encoder.name != needed:
            raise ValueError(
                f"a model that trains {recipe.model.encoder} from block {recipe.model.block} on needs the encoder "
                f"{needed}, not {recipe.encoder}"
            )
    elif isinstance(encoder, Stem) or kind.uses_regions != (len(encoder.row) == 2):
        needed = "regions, such as grid:3:efficientnet_lite2" if kind.uses_regions else "one vector a photo"
        raise ValueError(f"{model_name(recipe.model)} needs an encoder of {needed}, which {recipe.encoder} is not")
    if isinstance(recipe.model, ClassesConfig) and not hasattr(encoder.network, "_fc"):
        raise ValueError(f"class words need an encoder that knows ImageNet's classes, and {encoder.name} does not")


def _digest(features: torch.Tensor) -> str:
    """What tells other photos under the same names."""
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy()).hexdigest()


def _count(model: NGram, vocabulary: Vocabulary, data: CaptionData, dev: CaptionData) -> Progress:
    model.count(data.sentences, vocabulary)
    score = pair_log_likelihood(
        model.eval(), vocabulary, dev.sentences, dev.images, dev.features.to(model.unigram.device)
    )
    value = perplexity(score.double().sum().item(), dev.tokens)
    return Progress("", epoch=1, best_perplexity=value, best_epoch=1, finished=True)


def _references(model: NeuralLanguageModel, features: torch.Tensor, recipe: Recipe) -> torch.Tensor | None:
    if not recipe.references:
        return None
    # The same photos whatever the seed, so that the models of an ensemble agree on them.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(features), generator=generator)[: recipe.references]
    with torch.inference_mode():
        parts = features[chosen].to(model.feature_mean.device).split(64)
        return torch.cat([model.encode_image(part) for part in parts]).cpu()


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
