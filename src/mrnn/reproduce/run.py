"""Runs a table's steps one after another; each leaves one file of figures, so a kill costs what was not finished.

OUT/identity.json       data and code that everything in the folder is of
OUT/runs/STEP/          the trained model, with its checkpoint
OUT/figures/STEP.json   what was measured of it
OUT/results.json        all figures, OUT/tables.md the tables, OUT/*.png the plots
"""

import ast
import gc
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mrnn.corpora import Corpus
from mrnn.draw import draw_recall_bars, draw_trainings, draw_worth
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.evaluation import evaluate_captions, evaluate_likelihood, evaluate_retrieval
from mrnn.evaluation.worth import image_worth
from mrnn.files import read_json, write_atomically, write_json
from mrnn.networks import load_encoder
from mrnn.pipeline import Pipeline, load
from mrnn.recipes import RECIPES, Recipe, train_recipe
from mrnn.recipes.training import Call
from mrnn.reproduce.plan import Step, steps
from mrnn.reproduce.reported import RETRIEVAL
from mrnn.reproduce.tables import markdown
from mrnn.tasks.likelihood import token_log_probabilities
from mrnn.tasks.retrieval import Score
from mrnn.text import tokenise
from mrnn.version import code_version

# What decides the figures; faces and the making of tables do not.
CODE = (
    "text",
    "images",
    "corpora",
    "encoders",
    "networks",
    "models",
    "runtime",
    "tasks",
    "training",
    "cider",
    "evaluation",
    "recipes",
)
FEWEST_WORDS = 20
SHORTLIST = 60
EVALUATION_MINUTES = {True: 2.0, False: 0.3}  # with retrieval, and without


def code_fingerprint() -> str:
    """SHA-256 over every room that decides a figure: its statements, not its comments and docstrings."""
    source = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in CODE:
        files = [source / f"{room}.py"] if (source / f"{room}.py").is_file() else sorted((source / room).rglob("*.py"))
        for file in files:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    node.body = [
                        s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
                    ]
            digest.update(f"{file.relative_to(source).as_posix()}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


class Reproduction:
    """One table, on one data set, in one folder.

    Args:
        table: Its name in `TABLES`.
        corpus: The data set.
        out: The folder of the results.
        weights: For encoders whose weights are a file, that file: `{"alexnet": FILE}`.
        cache_folder: Of the feature cache.
        device: To train and measure on.

    Raises:
        ValueError: There is no such table, the data cannot give it, or `out` holds results of other data or code.
    """

    def __init__(
        self,
        table: str,
        corpus: Corpus,
        out: Path,
        weights: dict[str, Path] | None = None,
        cache_folder: Path | None = None,
        device: str = "cpu",
    ):
        self.table, self.corpus, self.out = table, corpus, out
        self.weights, self.cache_folder, self.device = weights or {}, cache_folder, device
        self.steps = steps(table)
        self._check_data()
        self._check_folder()
        self.unavailable = {step.name: reason for step in self.steps if (reason := self._missing(step))}

    def _check_data(self) -> None:
        for split in ("train", "test"):
            self.corpus.split(split)  # which says what is missing
        counts = Counter(w for photo in self.corpus.split("train") for c in photo.captions for w in tokenise(c))
        least = max(RECIPES[step.row.recipe]().min_count for step in self.steps)
        known = sum(n >= least for n in counts.values())
        if known < FEWEST_WORDS:
            raise ValueError(
                f"{self.corpus.name}: only {known} words occur {least} times or more in the training captions; "
                f"these tables need a vocabulary of {FEWEST_WORDS} words at least"
            )
        needs = [step.row.label for step in self.steps if step.row.consensus]
        if needs and max(len(photo.captions) for photo in self.corpus.split("train")) == 1:
            raise ValueError(
                f"{self.corpus.name}: has one caption a photo, and the table {self.table} is of data with several "
                "(consensus re-ranking and retrieval rest on them); the table iaprtc12 is of data with one"
            )

    def _check_folder(self) -> None:
        path = self.out / "identity.json"
        mine = {"table": self.table, "data": self.corpus.fingerprint, "code": code_fingerprint()}
        if path.is_file():
            there = read_json(path)
            for key, what in (("table", "another table"), ("data", "other data"), ("code", "another version of mrnn")):
                if there.get(key) != mine[key]:
                    raise ValueError(f"{self.out}: holds results of {what}; give another --out, or delete it")
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise ValueError(f"{self.out}: is not empty and holds no results; give another --out")
        write_json(path, mine)

    def recipe(self, step: Step) -> Recipe:
        """A step's recipe, with its seed, the encoder's file of weights, and the trained model it comes after."""
        recipe = RECIPES[step.row.recipe]()
        if step.row.encoder:
            recipe = replace(recipe, encoder=step.row.encoder)
        if recipe.encoder in self.weights:
            recipe = replace(recipe, encoder=f"{recipe.encoder}:{self.weights[recipe.encoder]}")
        recipe = replace(recipe, training=replace(recipe.training, seed=step.seed))
        for earlier in self.steps:
            trained = self.out / "runs" / earlier.name
            same = (earlier.row.encoder, earlier.seed) == (step.row.encoder, step.seed)
            is_before = same and earlier.row.recipe == recipe.after
            if is_before and (trained / "model.safetensors").is_file():
                return replace(recipe, start=str(trained))
        return recipe

    def _missing(self, step: Step) -> str:
        """Why a step cannot be run; empty if it can."""
        if self.done(step):
            return ""
        recipe = self.recipe(step)
        encoder = recipe.model.for_encoder(recipe.encoder)
        if encoder not in self._encoders:
            try:
                load_encoder(encoder)
                self._encoders[encoder] = ""
            except ValueError as error:
                self._encoders[encoder] = str(error)
        return self._encoders[encoder]

    @cached_property
    def _encoders(self) -> dict[str, str]:
        return {}

    def figures_file(self, step: Step) -> Path:
        """Where a step's figures go."""
        return self.out / "figures" / f"{step.name}.json"

    def done(self, step: Step) -> bool:
        """Whether a step was measured."""
        return self.figures_file(step).is_file()

    @property
    def to_do(self) -> list[Step]:
        """Steps that can be run and were not."""
        return [step for step in self.steps if not self.done(step) and step.name not in self.unavailable]

    def minutes_left(self) -> float:
        """By the plan's minutes, and how much longer than those the steps that are done have taken."""
        done = [step for step in self.steps if self.done(step)]
        planned = sum(_planned(step) for step in done)
        taken = sum(read_json(self.figures_file(step))["seconds"] for step in done) / 60
        pace = taken / planned if done else 1.0
        return pace * sum(_planned(step) for step in self.to_do)

    def run(
        self,
        on_begin: Callable[[Step], None] = lambda step: None,
        on_step: Callable[[dict[str, Any]], None] = lambda record: None,
        on_end: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """Run what is to do, and write tables and plots after every step.

        Args:
            on_begin: Called with a step that begins.
            on_step: Called with every record of its training log.
            on_end: Called with a step that is measured.
        """
        for step in self.to_do:
            if self.done(step):  # by another process on the same folder
                continue
            on_begin(step)
            self._run(step, on_step)
            self.report()
            on_end(step)
            gc.collect()
        self.report()

    def _run(self, step: Step, on_step: Callable[[dict[str, Any]], None]) -> None:
        clock = time.perf_counter()
        chosen = f" --encoder {step.row.encoder}" if step.row.encoder else ""
        command = f"mrnn train {step.row.recipe}{chosen} --training.seed {step.seed}"
        folder = self.out / "runs" / step.name
        trained = folder / "model.safetensors"
        recipe = self.recipe(step)
        began = 0.0
        if not trained.is_file():
            train_recipe(
                step.row.recipe,
                recipe,
                self.corpus,
                folder,
                Call(command, self.cache_folder, self.device, on_step=on_step),
            )
            began = time.perf_counter() - clock
        pipeline = load(folder, "torch", self.device)
        record = {
            "step": step.name,
            "recipe": step.row.recipe,
            "seed": step.seed,
            "code": code_version(),
            "model_fingerprint": pipeline.fingerprint,
            "dev_perplexity": pipeline.provenance["training"]["dev_perplexity"],
            "train_seconds": began,
            **self._measure(pipeline, step),
        }
        record["seconds"] = time.perf_counter() - clock
        write_json(self.figures_file(step), record)

    def _measure(self, pipeline: Pipeline, step: Step) -> dict[str, Any]:
        cache = FeatureCache(pipeline.encoder, self.cache_folder)
        test = encode_split(self.corpus, "test", cache)
        references = [photo.captions for photo in test.photos]
        figures = evaluate_likelihood(pipeline, references, test.features)
        likelihood = dict(figures)
        metrics, captions = evaluate_captions(pipeline, references, test.features)
        figures |= metrics
        record: dict[str, Any] = {"captions": {p.id: c.text for p, c in zip(test.photos, captions, strict=True)}}
        if step.row.consensus:
            train = encode_split(self.corpus, "train", cache)
            said = pipeline.consensus(train.features, [photo.captions for photo in train.photos])
            metrics, captions = evaluate_captions(pipeline, references, test.features, consensus=said)
            record["consensus"] = metrics
        if pipeline.model.uses_image:
            pairs = [(i, c) for i, several in enumerate(references) for c in several if tokenise(c)]
            owner = [i for i, _ in pairs]
            retriever = pipeline.retriever(test.features, [c for _, c in pairs], precision="auto")
            figures |= evaluate_retrieval(retriever, owner, SHORTLIST)[0]
            if step.row.consensus and step.seed == step.row.seeds[0]:
                others: tuple[Score, ...] = ("raw", "per-token")
                measured: dict[str, dict[str, float]] = {
                    score: evaluate_retrieval(retriever, owner, SHORTLIST, score)[0] for score in others
                }
                # The default ranks sentences by this score, and a sentence's photos in the same order as this score.
                measured["normalised"] = figures
                record["scores"] = {score: _recalls(found) for score, found in measured.items()}
        return {"figures": figures, "likelihood": likelihood, **record}

    def results(self) -> dict[str, dict[str, Any]]:
        """What was measured, by step."""
        return {step.name: read_json(self.figures_file(step)) for step in self.steps if self.done(step)}

    def report(self) -> str:
        """Write `results.json`, `tables.md` and the plots of what is done; the tables are returned too."""
        results = self.results()
        worth = self._worth(results)
        text = markdown(self.table, self.corpus.name, self.steps, results, self.unavailable, worth)
        write_atomically(self.out / "tables.md", text.encode())
        kept = {name: {k: v for k, v in record.items() if k != "captions"} for name, record in results.items()}
        write_json(self.out / "results.json", {"data": self.corpus.summary(), "steps": kept, "worth": worth})
        logs = {step.row.label: self.out / "runs" / step.name / "log.jsonl" for step in self.steps if self.done(step)}
        draw_trainings({label: log for label, log in logs.items() if log.is_file()}, self.out / "training.png")
        rows = {f"{row.label} (reported)": row.figures for row in RETRIEVAL[self.table]}
        for step in self.steps:
            figures = results.get(step.name, {}).get("figures", {})
            if not step.row.ablation and "sentence-to-image R@1" in figures:
                rows.setdefault(step.row.label, figures)
        draw_recall_bars(rows, self.out / "retrieval.png")
        if worth:
            draw_worth(worth, self.out / "worth.png")
        return text

    def _worth(self, results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
        """Of the image: m-RNN of the first seed against RNN-Base, by part of speech."""
        pair = ("mrnn", "rnn")
        runs = [next((s for s in self.steps if s.row.recipe == r and not s.row.encoder), None) for r in pair]
        if any(step is None or step.name not in results for step in runs):
            return {}
        path = self.out / "figures" / "worth.json"
        if path.is_file():
            return read_json(path)
        tokens = []
        sentences: list[list[str]] = []
        for step in runs:
            assert step is not None
            pipeline = load(self.out / "runs" / step.name, "torch", self.device)
            test = encode_split(self.corpus, "test", FeatureCache(pipeline.encoder, self.cache_folder))
            pairs = [(i, w) for i, photo in enumerate(test.photos) for c in photo.captions if (w := tokenise(c))]
            sentences = [words for _, words in pairs]
            ids = [pipeline.vocabulary.encode(words) for words in sentences]
            image = pipeline.model.encode_image(test.features)[[i for i, _ in pairs]]
            tokens.append(token_log_probabilities(pipeline.model, pipeline.vocabulary, ids, image))
        worth = image_worth(sentences, *tokens)
        assert all(math.isfinite(group["worth"]) for group in worth.values())
        write_json(path, worth)
        return worth


def _planned(step: Step) -> float:
    return step.row.minutes + EVALUATION_MINUTES[step.row.sees_image]


def _recalls(figures: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if key.endswith(("R@1", "R@5", "R@10", "median rank"))}
