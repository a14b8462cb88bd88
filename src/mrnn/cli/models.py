"""Verbs about models: train, evaluate, reproduce."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from mrnn.cli.console import (
    Data,
    Device,
    Hand,
    Images,
    PriorWeight,
    Usage,
    bar,
    open_model,
    report,
    say,
    say_device,
    typed_command,
    visible,
    warn,
    warn_photos,
    weight_of_prior,
)
from mrnn.cli.parsing import parse
from mrnn.workshop import workshop

if TYPE_CHECKING:
    from mrnn.corpora import Corpus, Photo
    from mrnn.images import ImageError
    from mrnn.tasks.generation import Caption

SHORTLIST = 60


def evaluate(
    model: Positional[str] = "base",
    /,
    data: Data = (),
    images: Images = (),
    split: str = "test",
    metrics: Literal["all", "likelihood", "captions", "retrieval"] = "all",
    beam: int | None = None,
    shortlist: int | None = None,
    exact: bool = False,
    prior_weight: PriorWeight | None = None,
    consensus: Literal["plain", "weighted"] | None = None,
    temperature: float | None = None,
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
    plots: Annotated[Path | None, arg(metavar="DIR")] = None,
    cache: Path | None = None,
    device: Device = None,
    runtime: Hand = "auto",
) -> int:
    """Measure a model on a data set: perplexity, caption metrics, and retrieval in both directions.

    Args:
        model: Bundled model, folder or hub name.
        data: Folder of the data set.
        images: Folder of its photos, if they are not with it.
        split: Which photos.
        metrics: Which figures; `captions` needs the extra eval, and Java for METEOR and the usual tokens.
        beam: Beams of the search; the model's own number if left out.
        shortlist: Photos that retrieval scores exactly for each sentence, 60 if left out, and five times as many
            sentences, where a photo has five captions, for each photo.
        exact: Retrieval scores every pair exactly, which takes minutes.
        prior_weight: Of the score by which a photo's sentences are ranked.
        consensus: Re-rank ten captions a photo, or twenty if weighted, by the captions of the nearest train photos: by
            those most like it, as the second paper does, or weighted by how well they fit the photo.
        temperature: Of those weights, in nats; choose it on dev. 7, as suits `base`, if left out.
        json: Write the figures, the captions and the fingerprints of model, data and code here.
        plots: Draw recall curves and a gallery of captions and found sentences into this folder.
        cache: Folder of the feature cache.
        device: Where to compute.
        runtime: What computes.
    """
    from mrnn.corpora import read_corpora
    from mrnn.encoders import FeatureCache
    from mrnn.encoders.splits import encode_split
    from mrnn.evaluation import evaluate_captions, evaluate_likelihood, evaluate_retrieval
    from mrnn.evaluation.captions import has_java
    from mrnn.files import write_json
    from mrnn.tasks.consensus import PLAIN, WEIGHTED
    from mrnn.text import tokenise
    from mrnn.version import code_version

    if not data:
        raise Usage("say where the data set is: --data DIR")
    if shortlist is not None and (shortlist < 1 or exact):
        raise Usage("--shortlist must be 1 or more, and does not go with --exact")
    weight = weight_of_prior(prior_weight)
    if beam is not None and (beam < 1 or consensus):
        raise Usage("--beam must be 1 or more, and does not go with --consensus, which has its own")
    if metrics in ("likelihood", "retrieval") and (beam is not None or consensus):
        raise Usage(f"--{'beam' if beam is not None else 'consensus'} is about captions, which --metrics leaves out")
    about_retrieval = {"exact": exact or None, "plots": plots, "shortlist": shortlist, "prior-weight": prior_weight}
    given = [flag for flag, value in about_retrieval.items() if value is not None]
    if metrics in ("likelihood", "captions") and given:
        raise Usage(f"--{given[0]} is about retrieval, which --metrics leaves out")
    if temperature is not None and (consensus != "weighted" or temperature <= 0):
        raise Usage("--temperature goes with --consensus weighted, and must be above 0")
    pipeline = open_model(model, device, runtime)
    corpus = read_corpora(data, images)
    report(corpus)
    if consensus and not pipeline.model.uses_image:
        raise Usage(f"--consensus needs a model that looks at the image, and {model} does not")
    with bar("encoding photos") as advance:
        features = FeatureCache(pipeline.encoder, cache)
        photos = encode_split(corpus, split, features, advance)
        known = encode_split(corpus, "train", features, advance) if consensus else None
    warn_photos(photos.errors)
    references = [photo.captions for photo in photos.photos]
    pairs = [(i, c) for i, several in enumerate(references) for c in several if tokenise(c)]
    owner, sentences = [i for i, _ in pairs], [c for _, c in pairs]
    figures = {"photos": float(len(photos.photos))}
    if metrics in ("all", "likelihood"):
        figures |= evaluate_likelihood(pipeline, references, photos.features)
    captions, scores = [], {}
    if metrics in ("all", "captions"):
        if not has_java():
            warn(
                "without Java, words are cut by our own tokeniser, which moves figures a little, and METEOR is left out"
            )
        generation = pipeline.options() if beam is None else pipeline.options(beam=beam)
        said = None
        if known is not None:
            config = WEIGHTED if consensus == "weighted" else PLAIN
            if temperature is not None:
                config = replace(config, temperature=temperature)
            said = pipeline.consensus(known.features, [p.captions for p in known.photos], config)
        more, captions = evaluate_captions(pipeline, references, photos.features, generation, said)
        figures |= more
    if metrics == "retrieval" or (metrics == "all" and pipeline.model.uses_image):
        retriever = pipeline.retriever(photos.features, sentences, prior_weight=weight)
        more, scores = evaluate_retrieval(retriever, owner, None if exact else shortlist or SHORTLIST)
        figures |= more
    print(visible(f"{model} on {corpus.name}, split {split}"))
    _print_figures(figures)
    if json is not None:
        write_json(
            json,
            {
                "command": typed_command(),
                "model": model,
                "model_fingerprint": pipeline.fingerprint,
                "data": corpus.summary(),
                "data_fingerprint": corpus.fingerprint,
                "split": split,
                "code": code_version(),
                "figures": figures,
                "captions": by_photo(photos.photos, captions),
            },
        )
    if plots is not None and scores:
        import numpy as np

        from mrnn.draw import draw_gallery, draw_recall
        from mrnn.evaluation.ranking import ranks

        titles = (("image", "image to sentence", 1), ("sentence", "sentence to image", 0))
        found = {t: (ranks(scores[q], np.asarray(owner), q), scores[q].shape[axis]) for q, t, axis in titles}
        draw_recall(found, plots / "recall.png")
        files, written = [photo.path for photo in photos.photos], [caption.text for caption in captions]
        draw_gallery(files, sentences, scores["image"], owner, written, plots / "gallery.png")
    return 1 if photos.errors else 0


def convert(folder: Positional[Path], /, half: bool = False) -> int:
    """Bring a model's folder up to date, so that it can be used without PyTorch; needs PyTorch.

    Args:
        folder: Of the model.
        half: Keep the weights as float16.
    """
    from mrnn.runtime.folder import find_folder

    folder = find_folder(str(folder))
    pipeline = open_model(str(folder), "cpu", "torch")
    for note in workshop("models.saving").convert(pipeline, folder, half):
        say(note)
    print(visible(f"{folder}: up to date"))
    return 0


def by_photo(photos: "Sequence[Photo]", captions: "Sequence[Caption]") -> dict[str, str]:
    """Captions by the photo's id; by its path where several data sets have the id."""
    ids = Counter(photo.id for photo in photos)
    names = (photo.id if ids[photo.id] == 1 else str(photo.path) for photo in photos)
    return {name: caption.text for name, caption in zip(names, captions, strict=False)}


def _print_figures(figures: dict[str, float]) -> None:
    """One line a figure; for retrieval its interval and chance level beside it."""
    for key, value in figures.items():
        if key.endswith((" low", " high", " chance")):
            continue
        line = f"{key:32}  {value:,.4g}" if value < 1000 else f"{key:32}  {value:,.0f}"
        if f"{key} chance" in figures:
            low, high, chance = (figures[f"{key} {name}"] for name in ("low", "high", "chance"))
            line += f"  (95 %: {low:.4g} to {high:.4g}; chance {chance:.4g})"
        print(line)


def train(
    recipe: Any,
    name: str,
    data: tuple[Path, ...],
    out: Path,
    images: tuple[Path, ...] = (),
    text: tuple[Path, ...] = (),
    cache: Path | None = None,
    device: str | None = None,
) -> int:
    """Train a model by a recipe; the same command goes on with a run that was stopped."""
    from mrnn.corpora import read_corpora

    room = workshop("recipes.training")
    place = _device(device)
    corpus = read_corpora(data, images)
    with workshop("training.distributed").join(place) as world:
        call = room.Call(typed_command(), cache, world.device, text=text, world=world)
        if world.leads:
            say_device(device, world.device)
            return _train_aloud(room, recipe, name, corpus, out, call)
        room.train_recipe(name, recipe, corpus, out, call)
        return 0


def _train_aloud(room: Any, recipe: Any, name: str, corpus: "Corpus", out: Path, call: Any) -> int:
    """Train, and tell of it; of several processes one does."""
    report(corpus)
    failed: set[str] = set()

    def left_out(errors: "Sequence[ImageError]") -> None:
        warn_photos(error for error in errors if error.name not in failed)
        failed.update(error.name for error in errors)

    encoding, training = contextlib.ExitStack(), contextlib.ExitStack()
    with encoding, training:
        encoded = encoding.enter_context(bar("encoding photos"))
        training_bar = _TrainingBar(training, encoding)
        call = replace(call, on_features=encoded, on_errors=left_out, on_step=training_bar, on_note=say)
        pipeline = room.train_recipe(name, recipe, corpus, out, call)
    facts = pipeline.provenance["training"]
    print(visible(f"{out}: dev perplexity {facts['dev_perplexity']:.3f} after epoch {facts['best_epoch']}"))
    return 1 if failed else 0


def reproduce(
    table: Positional[str],
    /,
    data: Data = (),
    images: Images = (),
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: results/TABLE)")] = None,
    alexnet: Annotated[Path | None, arg(metavar="FILE")] = None,
    vgg16: Annotated[Path | None, arg(metavar="FILE")] = None,
    cache: Path | None = None,
    device: Device = None,
) -> int:
    """Train and measure every model of the papers' tables, and print them with the reported figures beside ours.

    The same command goes on where it was stopped.

    Args:
        table: flickr8k, flickr30k, iaprtc12 or coco.
        data: Folder of the data set.
        images: Folder of its photos, if they are not with it.
        out: Folder of the results: tables.md, results.json, plots, and the trained models.
        alexnet: AlexNet's weights in torchvision's layout; fetched without, if online.
        vgg16: VGG-16's weights in torchvision's layout; fetched without, if online.
        cache: Folder of the feature cache.
        device: Where to compute.
    """
    from mrnn.corpora import read_corpora

    room = workshop("reproduce")
    if table not in room.TABLES:
        raise Usage(f"no table {table!r}; there are {', '.join(room.TABLES)}")
    if not data:
        raise Usage("say where the data set is: --data DIR")
    place = _device(device)
    say_device(device, place)
    corpus = read_corpora(data, images)
    report(corpus)
    weights = {name: path for name, path in (("alexnet", alexnet), ("vgg16", vgg16)) if path is not None}
    job = room.Reproduction(table, corpus, out or Path("results") / table, weights, cache, place)
    for step in job.steps:
        state = "done" if job.done(step) else f"not run: {job.unavailable.get(step.name, '')}"
        if step in job.to_do:
            state = f"to do, about {step.row.minutes:.3g} min of training"
        say(f"  {step.name:28} {state}")
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(bar(table))

        def begin(step: Any) -> None:
            say(f"{step.name}: {len(job.to_do)} steps and about {job.minutes_left():.0f} minutes left")

        def progress(record: dict[str, Any]) -> None:
            advance(record["step"], record["steps"], f"epoch {record['epoch']}")

        def end(step: Any) -> None:
            figures = job.results()[step.name]["figures"]
            say(f"{step.name}: perplexity {figures['perplexity']:.2f}, BLEU-4 {figures['BLEU-4']:.3f}")

        job.run(begin, progress, end)
    print((job.out / "tables.md").read_text(encoding="utf-8"))
    return 0


def _device(name: str | None) -> str:
    """PyTorch's device of a `--device`, `auto` resolved; freed memory is kept."""
    from mrnn.runtime import DeviceError

    room = workshop("models.devices")
    room.keep_memory()
    try:
        return room.torch_device(name or "auto")
    except DeviceError as error:
        raise Usage(f"--device {name}: {error}") from None


class _TrainingBar:
    """The bar of a training run, with tokens a second; off a terminal one line an epoch."""

    def __init__(self, stack: contextlib.ExitStack, before: contextlib.ExitStack):
        self._stack, self._before, self._advance, self._speed = stack, before, None, 0

    def __call__(self, record: dict[str, Any]) -> None:
        if self._advance is None:
            self._before.close()
            self._advance = self._stack.enter_context(bar("training"))
        self._speed = record.get("tokens_per_second", self._speed)
        self._advance(record["step"], record["steps"], f"{self._speed:,} tokens/s")
        if "dev_perplexity" in record:
            before = f"{record['recipe']}, " if "recipe" in record else ""
            figure = f"dev perplexity {record['dev_perplexity']:.3f}"
            say(f"{before}epoch {record['epoch']}: {figure}, {self._speed:,} tokens/s")


def train_command(recipe_name: str, arguments: list[str]) -> int:
    """Parse `mrnn train RECIPE ...`: every field of the recipe is a flag, with its value there as default."""
    room = workshop("recipes")
    if recipe_name not in room.RECIPES:
        raise Usage(f"no recipe {recipe_name!r}; there are {', '.join(room.RECIPES)}")
    default = room.RECIPES[recipe_name]()

    def train_flags(
        data: Data = (),
        images: Images = (),
        out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(required)")] = None,
        text: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = (),
        cache: Path | None = None,
        device: Device = None,
        recipe: Annotated[room.Recipe, arg(name="")] = default,
    ) -> int:
        """Train a model by a recipe; the same command goes on with a run that was stopped.

        Args:
            data: Folder of a data set; give it again for more than one.
            images: Folder of its photos, if they are not with it.
            out: Folder for the model, its checkpoint, log and curves.
            text: Captions without photos to learn from too: Karpathy's JSON layout, or a caption a line; repeatable.
            cache: Folder of the feature cache.
            device: Where to compute.
            recipe: What to train.
        """
        if not data or out is None:
            raise Usage("say where the data set is and where the model goes: --data DIR --out DIR")
        return train(recipe, recipe_name, data, out, images, text, cache, device)

    description = (
        f"{train_flags.__doc__}".split("\n")[0]
        + f" Recipe {recipe_name}: {(room.RECIPES[recipe_name].__doc__ or '').splitlines()[0]}"
    )
    return parse(train_flags, arguments, f"mrnn train {recipe_name}", description)
