"""The command line: one verb, one function.

Exit codes: 0 all went well, 1 some inputs failed (each is named on stderr), 2 bad usage.
"""

import contextlib
import functools
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

Photos = Annotated[Positional[tuple[Path, ...]], arg(metavar="PHOTO", help_behavior_hint="")]
Data = Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="(required, repeatable)")]
Json = Annotated[bool, arg(help="Print JSON, one object a line.", help_behavior_hint="")]


SENTENCES_AT_ONCE = 20_000


class Usage(Exception):
    """A mistake in how a verb is called, which ends with exit code 2."""


def caption(
    photos: Photos,
    /,
    model: str = "base",
    n: int = 1,
    beam: int | None = None,
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Write captions for photos, as lines of PHOTO, a tab, and the caption.

    Args:
        photos: Photos to caption.
        model: Bundled model, folder or hub name.
        n: Captions a photo.
        beam: Beams of the search; the model's own number if left out.
        sample: Draw captions instead of searching for the likeliest.
        temperature: Of sampling; below 1 is safer, above 1 wilder.
        top_k: Sample among the k likeliest words.
        top_p: Sample among the likeliest words with this probability together.
        seed: Of sampling.
        json: Print JSON, one object a line.
    """
    if not photos:
        raise Usage("give at least one photo")
    options: dict[str, Any] = {"n": n}
    if sample:
        if beam is not None:
            raise Usage("--beam and --sample exclude each other")
        options |= {
            "method": "sample",
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
    elif beam is not None or n > 1:
        options["beam"] = max(n, 5) if beam is None else beam
    from mrnn.generation import GenerationConfig
    from mrnn.pipeline import load

    try:
        GenerationConfig(**options)
    except ValueError as error:
        raise Usage(str(error)) from None
    pipeline = load(model)
    names = [str(photo) for photo in photos]
    failed = 0
    with _bar("captioning", len(names)) as advance:
        chunk = 32
        for start in range(0, len(names), chunk):
            part = names[start : start + chunk]
            failed += _caption_some(pipeline, part, options, json)
            advance(len(part))
    return 1 if failed else 0


def _caption_some(pipeline, names: list[str], options: dict[str, Any], as_json: bool) -> int:
    from mrnn.encoders import pool_features

    features, positions, errors = pool_features(pipeline.encoder, names)
    captions = dict(zip(positions, pipeline.caption_features(features, **options) if positions else [], strict=True))
    reasons = {error.name: error for error in errors}
    for i, name in enumerate(names):
        if i not in captions:
            _warn(str(reasons[name]))
            if as_json:
                print(_json({"photo": name, "error": reasons[name].reason}))
        elif as_json:
            print(_json({"photo": name, "captions": [_caption_fields(c) for c in captions[i]]}))
        else:
            for c in captions[i]:
                print(f"{name}\t{c.text}")
    sys.stdout.flush()
    return len(errors)


def _caption_fields(c) -> dict[str, Any]:
    words = [*c.tokens, "<end>"]
    return {
        "text": c.text,
        "log_likelihood": c.log_likelihood,
        "score": c.score,
        "tokens": [{"token": w, "log_probability": p} for w, p in zip(words, c.log_probabilities, strict=True)],
    }


def rank(
    photos: Photos,
    /,
    sentences: Annotated[Path | None, arg(metavar="FILE")] = None,
    sentence: str | None = None,
    model: str = "base",
    top: int = 10,
    score: Literal["raw", "normalised", "per-token", "posterior"] | None = None,
    json: Json = False,
) -> int:
    """Rank sentences for each photo, or photos for a sentence, by likelihood; lines of PHOTO, score, sentence.

    Args:
        photos: Photos.
        sentences: A text file with a sentence a line: ranked for each photo.
        sentence: One sentence: the photos are ranked for it.
        model: Bundled model, folder or hub name.
        top: How many to print.
        score: By default normalised for a photo's sentences, raw for a sentence's photos.
        json: Print JSON, one object a line.
    """
    if not photos:
        raise Usage("give at least one photo")
    if (sentences is None) == (sentence is None):
        raise Usage("give either --sentences FILE, to rank them for each photo, or --sentence, to rank the photos")
    if top < 1:
        raise Usage("--top must be 1 or more")
    from mrnn.encoders import pool_features
    from mrnn.pipeline import load
    from mrnn.retrieval import Query

    pipeline = load(model)
    lines, failed = _read_sentences(sentences, pipeline) if sentences is not None else ([sentence or ""], 0)
    if not lines:
        raise ValueError(f"{sentences}: holds no sentence")
    with _bar("encoding photos", len(photos)) as advance:
        features, positions, errors = pool_features(pipeline.encoder, [str(photo) for photo in photos])
        advance(len(photos))
    for error in errors:
        _warn(str(error))
    query: Query = "image" if sentence is None else "sentence"
    if positions:
        # Pools of any size: sentences in parts, of which each photo keeps the best.
        best: list[list[tuple[float, int]]] = [[] for _ in range(len(positions) if query == "image" else 1)]
        for start in range(0, len(lines), SENTENCES_AT_ONCE):
            found = pipeline.retriever(features, lines[start : start + SENTENCES_AT_ONCE])
            for kept, matches in zip(best, found.matches(query, top, score, _shortlist(top, query)), strict=True):
                kept += [(match.score, start + match.index) for match in matches]
                kept.sort(key=lambda pair: -pair[0])
                del kept[top:]
        for i, kept in enumerate(best):
            for value, j in kept:
                photo, text = (photos[positions[i]], lines[j]) if query == "image" else (photos[positions[j]], lines[0])
                if json:
                    print(_json({"photo": str(photo), "score": value, "sentence": text}))
                else:
                    print(f"{photo}\t{value:.2f}\t{text}")
    return 1 if errors or failed else 0


def _shortlist(top: int, query: Literal["image", "sentence"]) -> int | None:
    """An image's sentences are many and shortlisted; a sentence's photos cost one softmax each."""
    return max(10 * top, 200) if query == "image" else None


def _read_sentences(path: Path, pipeline) -> tuple[list[str], int]:
    """The sentences of a file, and how many lines had to be left out; blank lines are passed over."""
    from mrnn.files import read_text
    from mrnn.text import tokenise

    lines, failed = [], 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        tokens = tokenise(line)
        if tokens:
            lines.append(line.strip())
            if all(token not in pipeline.vocabulary for token in tokens):
                _warn(f"{path} line {number}: none of its words is known to the model, so its score says little")
        elif line.strip():
            _warn(f"left out {path} line {number}: it has no word")
            failed += 1
    return lines, failed


def score(
    pairs: Annotated[Path | None, arg(metavar="TABLE")] = None,
    model: str = "base",
    json: Json = False,
) -> int:
    """How well each caption of a table fits its photo: a reference-free score, low for wrong captions.

    Prints a table: image, caption, log-likelihood in nats, the same less the sentence prior, and both in bits a word.

    Args:
        pairs: CSV, TSV, JSONL or Parquet with an image and a caption column; photos relative to its folder.
        model: Bundled model, folder or hub name.
        json: Print JSON, one object a line.
    """
    if pairs is None:
        raise Usage("say where the table is: --pairs TABLE")
    from mrnn.corpora.table import read_pairs
    from mrnn.encoders import pool_features
    from mrnn.pipeline import load
    from mrnn.text import tokenise

    rows, broken = read_pairs(pairs)
    for where in broken:
        _warn(f"left out {where}: it has no photo or no caption")
    wordless = {caption for _, _, caption in rows if not tokenise(caption)}
    for caption in wordless:
        _warn(f"left out {caption!r}: it has no word")
    rows = [row for row in rows if row[2] not in wordless]
    pipeline = load(model)
    names = list(dict.fromkeys(str(path) for _, path, _ in rows))
    features, positions, errors = pool_features(pipeline.encoder, names)
    for error in errors:
        _warn(f"left out {error}")
    place = {names[position]: i for i, position in enumerate(positions)}
    usable = [row for row in rows if str(row[1]) in place]
    if not json:
        print("image\tcaption\traw\tnormalised\traw bits a word\tnormalised bits a word")
    part = 2000
    with _bar("scoring", len(usable)) as advance:
        for start in range(0, len(usable), part):
            some = usable[start : start + part]
            results = pipeline.score_pairs(features, [place[str(path)] for _, path, _ in some], [c for *_, c in some])
            for (image, _, caption), fields in zip(some, results, strict=True):
                if json:
                    print(_json({"image": image, "caption": caption, **fields}))
                else:
                    numbers = "\t".join("" if v is None else f"{v:.3f}" for v in fields.values())
                    print(f"{image}\t{caption}\t{numbers}")
            advance(len(some))
    return 1 if errors or broken or wordless else 0


def evaluate(
    model: Positional[str] = "base",
    /,
    data: Data = (),
    split: str = "test",
    metrics: Literal["all", "likelihood", "captions", "retrieval"] = "all",
    beam: int | None = None,
    shortlist: int = 60,
    exact: bool = False,
    consensus: bool = False,
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
    plots: Annotated[Path | None, arg(metavar="DIR")] = None,
    cache: Path | None = None,
) -> int:
    """Measure a model on a data set: perplexity, caption metrics, and retrieval in both directions.

    Args:
        model: Bundled model, folder or hub name.
        data: Folder of the data set.
        split: Which photos.
        metrics: Which figures; `captions` needs Java and the extra eval.
        beam: Beams of the search; the model's own number if left out.
        shortlist: Photos that retrieval scores exactly for each sentence, and five times as many sentences, where a
            photo has five captions, for each photo.
        exact: Retrieval scores every pair exactly, which takes minutes.
        consensus: Re-rank ten captions a photo by the captions of the nearest photos of the train split.
        json: Write the figures, the captions and the fingerprints of model, data and code here.
        plots: Draw recall curves and a gallery of captions and found sentences into this folder.
        cache: Folder of the feature cache.
    """
    from mrnn.corpora import read_corpora
    from mrnn.encoders import FeatureCache
    from mrnn.evaluation import evaluate_captions, evaluate_likelihood, evaluate_retrieval
    from mrnn.files import write_json
    from mrnn.pipeline import code_version, load
    from mrnn.recipes import encode_split
    from mrnn.text import tokenise

    if not data:
        raise Usage("say where the data set is: --data DIR")
    if shortlist < 1:
        raise Usage("--shortlist must be 1 or more")
    pipeline = load(model)
    corpus = read_corpora(data)
    _report(corpus)
    if consensus and not pipeline.model.uses_image:
        raise Usage(f"--consensus needs a model that looks at the image, and {model} does not")
    with _bar("encoding photos") as advance:
        features = FeatureCache(pipeline.encoder, cache)
        photos = encode_split(corpus, split, features, advance)
        known = encode_split(corpus, "train", features, advance) if consensus else None
    _warn_photos(photos.errors)
    references = [photo.captions for photo in photos.photos]
    pairs = [(i, c) for i, several in enumerate(references) for c in several if tokenise(c)]
    owner, sentences = [i for i, _ in pairs], [c for _, c in pairs]
    figures = {"photos": float(len(photos.photos))}
    if metrics in ("all", "likelihood"):
        figures |= evaluate_likelihood(pipeline.model, pipeline.vocabulary, references, photos.features)
    captions, scores = [], {}
    if metrics in ("all", "captions"):
        generation = pipeline.generation if beam is None else replace(pipeline.generation, beam=beam)
        said = None if known is None else pipeline.consensus(known.features, [p.captions for p in known.photos])
        more, captions = evaluate_captions(
            pipeline.model, pipeline.vocabulary, references, photos.features, generation, pipeline.centre, said
        )
        figures |= more
    if metrics == "retrieval" or (metrics == "all" and pipeline.model.uses_image):
        retriever = pipeline.retriever(photos.features, sentences)
        more, scores = evaluate_retrieval(retriever, owner, None if exact else shortlist)
        figures |= more
    print(f"{model} on {corpus.name}, split {split}")
    _print_figures(figures)
    if json is not None:
        write_json(
            json,
            {
                "command": _command(),
                "model": model,
                "model_fingerprint": pipeline.fingerprint,
                "data": corpus.summary(),
                "data_fingerprint": corpus.fingerprint,
                "split": split,
                "code": code_version(),
                "figures": figures,
                "captions": {p.id: c.text for p, c in zip(photos.photos, captions, strict=False)},
            },
        )
    if plots is not None and scores:
        from mrnn.evaluation.plots import plot_gallery, plot_recall

        plot_recall(scores, owner, plots / "recall.png")
        files, written = [photo.path for photo in photos.photos], [caption.text for caption in captions]
        plot_gallery(files, sentences, scores["image"], owner, written, plots / "gallery.png")
    return 1 if photos.errors else 0


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
    cache: Path | None = None,
    device: str = "auto",
) -> int:
    """Train a model by a recipe; the same command goes on with a run that was stopped."""
    import torch

    from mrnn.corpora import read_corpora
    from mrnn.recipes import train_recipe

    corpus = read_corpora(data)
    _report(corpus)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoding, training = contextlib.ExitStack(), contextlib.ExitStack()
    with encoding, training:
        encoded = encoding.enter_context(_bar("encoding photos"))
        bar = _TrainingBar(training, encoding)
        pipeline = train_recipe(
            name,
            recipe,
            corpus,
            out,
            command=_command(),
            cache_folder=cache,
            device=device,
            on_features=encoded,
            on_errors=_warn_photos,
            on_step=bar,
        )
    facts = pipeline.provenance["training"]
    print(f"{out}: dev perplexity {facts['dev_perplexity']:.3f} after epoch {facts['best_epoch']}")
    return 0


def reproduce(
    table: Positional[str],
    /,
    data: Data = (),
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: results/TABLE)")] = None,
    alexnet: Annotated[Path | None, arg(metavar="FILE")] = None,
    vgg16: Annotated[Path | None, arg(metavar="FILE")] = None,
    cache: Path | None = None,
    device: str = "auto",
) -> int:
    """Train and measure every model of the papers' tables, and print them with the reported figures beside ours.

    The same command goes on where it was stopped.

    Args:
        table: flickr8k, flickr30k, iaprtc12 or coco.
        data: Folder of the data set.
        out: Folder of the results: tables.md, results.json, plots, and the trained models.
        alexnet: AlexNet's weights in torchvision's layout; fetched without, if online.
        vgg16: VGG-16's weights in torchvision's layout; fetched without, if online.
        cache: Folder of the feature cache.
        device: cpu, cuda, or auto.
    """
    import torch

    from mrnn.corpora import read_corpora
    from mrnn.reproduce import TABLES, Reproduction, Step

    if table not in TABLES:
        raise Usage(f"no table {table!r}; there are {', '.join(TABLES)}")
    if not data:
        raise Usage("say where the data set is: --data DIR")
    corpus = read_corpora(data)
    _report(corpus)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {name: path for name, path in (("alexnet", alexnet), ("vgg16", vgg16)) if path is not None}
    job = Reproduction(table, corpus, out or Path("results") / table, weights, cache, device)
    for step in job.steps:
        state = "done" if job.done(step) else f"not run: {job.unavailable.get(step.name, '')}"
        if step in job.to_do:
            state = f"to do, about {step.row.minutes:.3g} min of training"
        _say(f"  {step.name:28} {state}")
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(_bar(table))

        def begin(step: Step) -> None:
            _say(f"{step.name}: {len(job.to_do)} steps and about {job.minutes_left():.0f} minutes left")

        def progress(record: dict[str, Any]) -> None:
            advance(record["step"], record["steps"], f"epoch {record['epoch']}")

        def end(step: Step) -> None:
            figures = job.results()[step.name]["figures"]
            _say(f"{step.name}: perplexity {figures['perplexity']:.2f}, BLEU-4 {figures['BLEU-4']:.3f}")

        job.run(begin, progress, end)
    print((job.out / "tables.md").read_text())
    return 0


class _TrainingBar:
    """The bar of a training run, with tokens a second; off a terminal one line an epoch."""

    def __init__(self, stack: contextlib.ExitStack, before: contextlib.ExitStack):
        self._stack, self._before, self._advance, self._speed = stack, before, None, 0

    def __call__(self, record: dict[str, Any]) -> None:
        if self._advance is None:
            self._before.close()
            self._advance = self._stack.enter_context(_bar("training"))
        self._speed = record.get("tokens_per_second", self._speed)
        self._advance(record["step"], record["steps"], f"{self._speed:,} tokens/s")
        if "dev_perplexity" in record:
            _say(f"epoch {record['epoch']}: dev perplexity {record['dev_perplexity']:.3f}, {self._speed:,} tokens/s")


def _train_command(recipe_name: str, arguments: list[str]) -> int:
    """Parse `mrnn train RECIPE ...`: every field of the recipe is a flag, with its value there as default."""
    from mrnn.recipes import RECIPES, Recipe

    if recipe_name not in RECIPES:
        raise Usage(f"no recipe {recipe_name!r}; there are {', '.join(RECIPES)}")
    default = RECIPES[recipe_name]()

    def train_flags(
        data: Data = (),
        out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(required)")] = None,
        cache: Path | None = None,
        device: str = "auto",
        recipe: Annotated[Recipe, arg(name="")] = default,
    ) -> int:
        """Train a model by a recipe; the same command goes on with a run that was stopped.

        Args:
            data: Folder of a data set; give it again for more than one.
            out: Folder for the model, its checkpoint, log and curves.
            cache: Folder of the feature cache.
            device: cpu, cuda, or auto.
            recipe: What to train.
        """
        if not data or out is None:
            raise Usage("say where the data set is and where the model goes: --data DIR --out DIR")
        return train(recipe, recipe_name, data, out, cache, device)

    description = (
        f"{train_flags.__doc__}".split("\n")[0]
        + f" Recipe {recipe_name}: {(RECIPES[recipe_name].__doc__ or '').splitlines()[0]}"
    )
    return _parse(train_flags, arguments, f"mrnn train {recipe_name}", description)


VERBS: dict[str, Callable[..., int]] = {
    "caption": caption,
    "rank": rank,
    "score": score,
    "evaluate": evaluate,
    "reproduce": reproduce,
}
HELP = """usage: mrnn VERB ...

  caption PHOTO...                     write captions
  rank PHOTO... --sentences FILE       which sentences fit each photo
  rank PHOTO... --sentence TEXT        which photos fit a sentence
  score --pairs TABLE                  how well captions fit their photos
  train RECIPE --data DIR --out DIR    train a model
  evaluate [MODEL] --data DIR          measure a model on a data set
  reproduce TABLE --data DIR           make the papers' tables again

mrnn VERB --help tells more; mrnn --version prints the version."""
TRAIN_HELP = """usage: mrnn train RECIPE --data DIR --out DIR [...]

recipes:
{recipes}

mrnn train RECIPE --help lists every option."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit code is what the process ends with."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if verb in ("", "-h", "--help", "help"):
            print(HELP)
            return 0 if verb else 2
        if verb == "--version":
            import mrnn

            print(f"mrnn {mrnn.__version__}")
            return 0
        keep_memory()
        if verb == "train":
            if not rest or rest[0].startswith("-"):
                from mrnn.recipes import RECIPES

                recipes = "\n".join(
                    f"  {name:24} {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items()
                )
                print(TRAIN_HELP.format(recipes=recipes))
                return 0 if rest and rest[0] in ("-h", "--help") else 2
            return _train_command(rest[0], rest[1:])
        if verb not in VERBS:
            raise Usage(f"no verb {verb!r}; there are {', '.join((*VERBS, 'train'))}")
        return _parse(VERBS[verb], rest, f"mrnn {verb}", None)
    except Usage as error:
        _warn(f"error: {error}")
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        _warn(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _warn("stopped")
        return 130


def _parse(verb: Callable[..., int], arguments: list[str], program: str, description: str | None) -> int:
    started, stderr = False, sys.stderr

    @functools.wraps(verb)
    def run(*args: Any, **options: Any) -> int:
        nonlocal started
        started = True
        with contextlib.redirect_stderr(stderr):
            return verb(*args, **options)

    refusal = io.StringIO()
    try:
        config = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
        with contextlib.redirect_stderr(refusal):  # until `run` begins
            return tyro.cli(run, args=arguments, prog=program, description=description, config=config)
    except SystemExit as stop:
        if not started and stop.code:
            raise Usage(_first_sentence(refusal.getvalue())) from None
        return stop.code if isinstance(stop.code, int) else 2
    except ValueError as error:
        if not started:  # a recipe that contradicts itself is refused while it is put together
            raise Usage(str(error)) from None
        raise


def _first_sentence(box: str) -> str:
    """The message of tyro's framed error, on one line."""
    message: list[str] = []
    for line in box.splitlines()[1:]:  # below the title
        text = line.strip("│╭╮╰╯ ")
        rule = not text.strip("─-")
        if rule and message:
            break
        if not rule:
            message.append(text)
    return " ".join(message) or "the arguments cannot be read"


def keep_memory() -> None:
    """Let glibc keep freed memory: large tensors come and go every step, and fresh pages cost a fifth of it."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _warn(line: str) -> None:
    print(f"mrnn: {line}", file=sys.stderr)


def _warn_photos(errors) -> None:
    for error in errors:
        _warn(f"left out {error}")


def _report(corpus) -> None:
    _say(corpus.summary())
    for line in corpus.report.lines():
        _say(f"  {line}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _command() -> str:
    return shlex.join(["mrnn", *sys.argv[1:]])


@contextlib.contextmanager
def _bar(label: str, total: int | None = None) -> Generator[Callable[..., None]]:
    """A progress bar on stderr, on a terminal only.

    Yields:
        With `total`: a function of how many more are done; without: of how many are done, of all, and a note.
    """
    if not sys.stderr.isatty():
        yield lambda *numbers: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, note="")
        if total is not None:
            yield lambda n: progress.advance(task, n)
        else:
            yield lambda done, of, note="": progress.update(task, completed=done, total=of, note=note)


if __name__ == "__main__":
    sys.exit(main())
