"""The one way to turn a recipe and a data set into a trained model: stages, each a function of what came before.

encoder -> what it comes after -> features -> words -> captions as ids -> model -> fit -> pipeline -> confidence
-> folder
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrnn.corpora import Corpus
from mrnn.corpora.sentences import read_sentences
from mrnn.draw import draw_training
from mrnn.encoders import Encoder, FeatureCache
from mrnn.encoders.splits import Split, encode_split
from mrnn.files import read_json, sha256
from mrnn.images import ImageError
from mrnn.models import MODELS, LanguageModel, NeuralLanguageModel, model_name
from mrnn.models.hand import TorchRuntime
from mrnn.models.saving import fingerprint_of, save, to_device, without_folders
from mrnn.networks import load_encoder, located
from mrnn.pipeline import Pipeline, load
from mrnn.recipes.recipe import Recipe, before
from mrnn.text import Vocabulary, tokenise
from mrnn.training import CaptionData, Progress, train
from mrnn.training.distributed import ALONE, World
from mrnn.training.loop import dev_perplexity, in_use, log_frequencies
from mrnn.training.tensorboard import with_tensorboard
from mrnn.training.warm_start import warm_start
from mrnn.version import code_version

SIDED = {"left", "right", "leftmost", "rightmost"}


@dataclass(frozen=True)
class Call:
    """What a training was asked for beside its recipe and its data.

    Args:
        command: What was typed, for the model card.
        cache_folder: Of the feature cache.
        device: To train on.
        on_features: Called as photos are encoded, with how many are done and how many there are.
        on_errors: Called with the photos that cannot be used.
        on_step: Called with every record of the training log; those of a recipe that comes before name it, as `recipe`.
        on_note: Called with what of the saved model cannot be used without PyTorch, and why.
        text: Files of captions without photos, which are learned at the mean image. Those of photos that the corpus
            holds out are left out. A model with class words learns their words too; to others they are unknown. Of a
            recipe that comes after another, the first learns them.
        world: The processes that train together, of which the lead alone writes.
    """

    command: str = ""
    cache_folder: Path | None = None
    device: torch.device | str = "cpu"
    on_features: Callable[[int, int], None] = lambda done, total: None
    on_errors: Callable[[Sequence[ImageError]], None] = lambda errors: None
    on_step: Callable[[dict[str, Any]], None] = lambda record: None
    on_note: Callable[[str], None] = lambda note: None
    text: Sequence[Path] = ()
    world: World = ALONE


def train_recipe(name: str, recipe: Recipe, corpus: Corpus, out: Path, call: Call | None = None) -> Pipeline:
    """Train a model, or go on with a run that was stopped, and save it in `out`.

    Args:
        name: Of the recipe.
        recipe: What to train.
        corpus: With a train and a dev split.
        out: Folder of the model, its checkpoint, log and curves.
        call: What else was asked for.

    Raises:
        ValueError: The data cannot be trained on, the loss is not finite, or `out` holds another run.
    """
    call = call or Call()
    recipe = replace(recipe, encoder=located(recipe.encoder))
    kind = MODELS[model_name(recipe.model)]
    _check_folder(out, name, kind)
    encoder = _encoder(recipe, kind, call)
    start, text = _start(name, recipe, corpus, out, call)
    splits = _features(corpus, encoder, call)
    sentences = _photoless(text, corpus)
    vocabulary = _vocabulary(recipe, kind, splits["train"], sentences, start)
    data, dev = _captions(recipe, splits, vocabulary, sentences, encoder, call)
    model = _model(recipe, kind, vocabulary, encoder, call)
    run = _identity(recipe, encoder, corpus, data, dev, text, start)
    progress = _fit(recipe, model, vocabulary, data, dev, out, run, start, call)
    pipeline = _pipeline(name, recipe, model, vocabulary, encoder, splits["train"], corpus, progress, call)
    if call.world.leads:
        pipeline.calibrate(splits["dev"].features, [photo.captions for photo in splits["dev"].photos])
        pipeline.provenance["said"] = pipeline.say()
        for note in save(pipeline, out):
            call.on_note(note)
    return pipeline


def _check_folder(out: Path, name: str, kind: type[LanguageModel]) -> None:
    """Refuse a folder of something else, before a photo is encoded."""
    checkpoint, config = (out / "checkpoint.safetensors").exists(), out / "config.json"
    if kind.trained_by_gradient:
        ours = checkpoint or not any((out / file).exists() for file in ("config.json", "README.md", "vocab.txt"))
    else:  # leaves no checkpoint, and may be made again
        ours = not checkpoint and not config.exists()
        if not ours and not checkpoint and isinstance(facts := read_json(config), dict):
            ours = isinstance(training := facts.get("training"), dict) and training.get("recipe_name") == name
    if not ours:
        raise ValueError(f"{out}: holds another run, or something else; give another --out, or delete it")


def _encoder(recipe: Recipe, kind: type[LanguageModel], call: Call) -> Encoder:
    """What gives the features that the model takes; refused if they do not fit, before a photo is encoded."""
    encoder = load_encoder(recipe.model.for_encoder(recipe.encoder))
    kind.check_encoder(encoder)
    return to_device(encoder, call.device)


def _start(name: str, recipe: Recipe, corpus: Corpus, out: Path, call: Call) -> tuple[Pipeline | None, Sequence[Path]]:
    """The model to go on from, trained first if the recipe comes after another; and the text that is yet to be read."""
    if recipe.start or not recipe.after:
        return (load(recipe.start, "torch", "cpu") if recipe.start else None), call.text
    from mrnn.recipes import RECIPES

    if recipe.after not in RECIPES:
        raise ValueError(f"no recipe {recipe.after!r} to come after; there are {', '.join(RECIPES)}")
    if (out / "checkpoint.safetensors").exists() and not (out / "start").exists():
        raise ValueError(f"{out}: holds another run; give another --out, or delete it")
    usual = RECIPES[name]() if name in RECIPES else recipe
    earlier = before(RECIPES[recipe.after](), usual, recipe)
    marked = replace(call, on_step=lambda record: call.on_step({"recipe": recipe.after, **record}))
    return train_recipe(recipe.after, earlier, corpus, out / "start", marked), ()


def _features(corpus: Corpus, encoder: Encoder, call: Call) -> dict[str, Split]:
    """Of the photos to train on, and of those that choose."""
    cache = FeatureCache(encoder, call.cache_folder)
    with call.world.lead_first():
        splits = {split: encode_split(corpus, split, cache, call.on_features) for split in ("train", "dev")}
    call.on_errors([error for split in splits.values() for error in split.errors])
    return splits


def _photoless(text: Sequence[Path], corpus: Corpus) -> list[list[str]]:
    """Captions without photos, tokenised, but for those of photos that are held out."""
    held_out = {photo.key for photo in corpus.photos if photo.split != "train"}
    return [tokens for path in text for s in read_sentences(path, held_out) if (tokens := tokenise(s))]


def _vocabulary(
    recipe: Recipe, kind: type[LanguageModel], split: Split, sentences: list[list[str]], start: Pipeline | None
) -> Vocabulary:
    """The words of the photos' captions; what the start knows is not forgotten, even if these do not say it."""
    captions = (tokenise(caption) for photo in split.photos for caption in photo.captions)
    # A word that no photo was captioned with can be meant only by a model whose classifier speaks for it.
    spoken = chain(captions, sentences) if kind.learns_words_from_text else captions
    vocabulary = Vocabulary.build(spoken, recipe.min_count)
    if start is None:
        return vocabulary
    return Vocabulary([*start.vocabulary.tokens, *(t for t in vocabulary.tokens if t not in start.vocabulary)])


def _captions(
    recipe: Recipe,
    splits: dict[str, Split],
    vocabulary: Vocabulary,
    sentences: list[list[str]],
    encoder: Encoder,
    call: Call,
) -> tuple[CaptionData, CaptionData]:
    """The two splits' captions as ids, with mirror images and captions without photos as the recipe wants them."""
    mirrored = None
    if recipe.mirror:
        paths = [photo.path for photo in splits["train"].photos]
        cache = FeatureCache(encoder, call.cache_folder, mirror=True)
        with call.world.lead_first():
            rows, _, _ = cache.features(paths, call.on_features)
        mirrored = rows.astype(np.float32)
    data, dev = caption_data(splits["train"], vocabulary, mirrored), caption_data(splits["dev"], vocabulary)
    if sentences:
        data = data.with_text([vocabulary.encode(tokens) for tokens in sentences])
    return data, dev


def caption_data(split: Split, vocabulary: Vocabulary, mirrored: np.ndarray | None = None) -> CaptionData:
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
        return CaptionData(sentences, images, torch.from_numpy(split.features))
    features = torch.from_numpy(np.stack([split.features, mirrored], 1).reshape(-1, *mirrored.shape[1:]))
    return CaptionData(sentences, images, features, 2, [1 if SIDED & set(tokens) else 2 for _, tokens in pairs])


def _model(
    recipe: Recipe, kind: type[LanguageModel], vocabulary: Vocabulary, encoder: Encoder, call: Call
) -> LanguageModel:
    torch.manual_seed(recipe.training.seed)
    return kind.build(recipe.model, vocabulary, encoder).to(call.device)


def _identity(
    recipe: Recipe,
    encoder: Encoder,
    corpus: Corpus,
    data: CaptionData,
    dev: CaptionData,
    text: Sequence[Path],
    start: Pipeline | None,
) -> dict[str, Any]:
    """What tells this run from others; how captions are searched for may change without training again."""
    run: dict[str, Any] = {
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "generation"},
        "encoder": encoder.fingerprint,
        "data": corpus.fingerprint,
        "photos": [_digest(features) for features in (data.features, dev.features)],
    }
    if text:
        run["text"] = [sha256(path) for path in text]
    if start is not None:
        run["start"] = start.fingerprint
    return run


def _digest(features: torch.Tensor) -> str:
    """What tells other photos under the same names."""
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy()).hexdigest()


def _fit(
    recipe: Recipe,
    model: LanguageModel,
    vocabulary: Vocabulary,
    data: CaptionData,
    dev: CaptionData,
    out: Path,
    run: dict[str, Any],
    start: Pipeline | None,
    call: Call,
) -> Progress:
    """Learn, by the training loop or however the model does."""
    if start is not None:
        _warm(recipe, model, vocabulary, data, start, call)
    writes = model.trained_by_gradient and call.world.leads
    on_step = with_tensorboard(out, call.on_step) if writes else call.on_step

    def loop() -> Progress:
        assert isinstance(model, NeuralLanguageModel)
        return train(model, vocabulary, data, dev, recipe.training, out, run, on_step, start is None, call.world)

    progress = model.fit(data.sentences, vocabulary, loop)
    if progress is None:
        value = dev_perplexity(in_use(model, dev), vocabulary, dev)
        return Progress("", epoch=1, best_perplexity=value, best_epoch=1, finished=True)
    if writes:
        draw_training(out / "log.jsonl", out / "curves.png")
    return progress


def _warm(
    recipe: Recipe, model: LanguageModel, vocabulary: Vocabulary, data: CaptionData, start: Pipeline, call: Call
) -> None:
    """Take what the start knows."""
    assert isinstance(start.model, TorchRuntime)
    known = start.model.model
    if not isinstance(known, NeuralLanguageModel) or not isinstance(model, NeuralLanguageModel):
        raise ValueError(f"{recipe.start or recipe.after}: a model that counts words has no weights to start from")
    model.fit_features(data.features.to(call.device))
    model.set_output_bias(log_frequencies(data, vocabulary).to(call.device))
    warm_start(model, vocabulary, known, start.vocabulary)


def _pipeline(
    name: str,
    recipe: Recipe,
    model: LanguageModel,
    vocabulary: Vocabulary,
    encoder: Encoder,
    split: Split,
    corpus: Corpus,
    progress: Progress,
    call: Call,
) -> Pipeline:
    """The trained model at use, with the encoder that has the part it trained, and its references."""
    joined = to_device(model.join(encoder), call.device)
    runtime = TorchRuntime(model, model_name(model.config), joined.feature_shape)
    references = None
    if model.uses_image and recipe.references:
        # The same photos whatever the seed, so that the models of an ensemble agree on them.
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(split.features), generator=generator)[: recipe.references].numpy()
        parts = (split.features[chosen[i : i + 64]] for i in range(0, len(chosen), 64))
        references = np.concatenate([runtime.encode_image(part) for part in parts])
    asked = asdict(recipe)
    asked["encoder"], asked["start"] = without_folders(recipe.encoder), Path(recipe.start).name
    training = {
        "recipe_name": name,
        "recipe": asked,
        "command": call.command,
        "data": corpus.summary(),
        "data_fingerprint": corpus.fingerprint,
        "dev_perplexity": progress.best_perplexity,
        "best_epoch": progress.best_epoch,
        "steps": progress.step,
        "processes": call.world.size,
    }
    return Pipeline(
        runtime,
        vocabulary,
        joined,
        recipe.generation,
        {"training": training, "code": code_version()},
        references,
        described=encoder.describe(),
        fingerprint=fingerprint_of(model, vocabulary),
    )
