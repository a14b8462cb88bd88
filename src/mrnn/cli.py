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


def evaluate(
    model: Positional[str] = "base",
    /,
    data: Data = (),
    split: str = "test",
    metrics: Literal["all", "likelihood"] = "all",
    beam: int | None = None,
    json: Annotated[Path | None, arg(metavar="FILE")] = None,
    cache: Path | None = None,
) -> int:
    """Measure a model on a data set: perplexity and caption metrics.

    Args:
        model: Bundled model, folder or hub name.
        data: Folder of the data set.
        split: Which photos.
        metrics: `likelihood` leaves out what needs Java.
        beam: Beams of the search; the model's own number if left out.
        json: Write the figures, the captions and the fingerprints of model, data and code here.
        cache: Folder of the feature cache.
    """
    from mrnn.corpora import read_corpora
    from mrnn.encoders import FeatureCache
    from mrnn.evaluation import evaluate_captions, evaluate_likelihood
    from mrnn.files import write_json
    from mrnn.pipeline import code_version, load
    from mrnn.recipes import encode_split

    if not data:
        raise Usage("say where the data set is: --data DIR")
    pipeline = load(model)
    corpus = read_corpora(data)
    _report(corpus)
    with _bar("encoding photos") as advance:
        photos = encode_split(corpus, split, FeatureCache(pipeline.encoder, cache), advance)
    _warn_photos(photos.errors)
    references = [photo.captions for photo in photos.photos]
    figures = {"photos": float(len(photos.photos))}
    figures |= evaluate_likelihood(pipeline.model, pipeline.vocabulary, references, photos.features)
    captions = []
    if metrics == "all":
        generation = pipeline.generation if beam is None else replace(pipeline.generation, beam=beam)
        more, captions = evaluate_captions(pipeline.model, pipeline.vocabulary, references, photos.features, generation)
        figures |= more
    print(f"{model} on {corpus.name}, split {split}")
    for key, value in figures.items():
        print(f"{key:12}  {value:,.4g}" if value < 1000 else f"{key:12}  {value:,.0f}")
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
    return 1 if photos.errors else 0


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


VERBS: dict[str, Callable[..., int]] = {"caption": caption, "evaluate": evaluate}
HELP = """usage: mrnn VERB ...

  caption PHOTO...                     write captions
  evaluate [MODEL] --data DIR          measure a model on a data set
  train RECIPE --data DIR --out DIR    train a model

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
                    f"  {name:12} {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items()
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
