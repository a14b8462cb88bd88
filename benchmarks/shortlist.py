"""The study behind docs/retrieval.md: which cheap score gives the best shortlist, on a data set's dev split.

python -m benchmarks.shortlist DATA_DIR [MODEL]  writes docs/retrieval/study.json and its plots.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from mrnn.corpora import read_corpus
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.evaluation.ranking import ranks, recall_figures
from mrnn.files import atomic_path, write_json
from mrnn.pipeline import load
from mrnn.tasks.retrieval import Retriever, first_order, sentence_prior
from mrnn.tasks.retrieval.scores import apply_score
from mrnn.text import tokenise

OUT = Path("docs/retrieval")
SHORTLISTS = (1, 2, 5, 10, 20, 50, 100, 200)
N = 200


def centres(references: np.ndarray, k: int) -> np.ndarray:
    """k means of the reference images."""
    generator = torch.Generator().manual_seed(0)
    means = references[torch.randperm(len(references), generator=generator)[:k].numpy()]
    for _ in range(20):
        nearest = _nearest(references, means)
        means = np.stack([references[nearest == i].mean(0) if (nearest == i).any() else means[i] for i in range(k)])
    return means


def _nearest(image: np.ndarray, means: np.ndarray) -> np.ndarray:
    return ((means**2).sum(1) - 2 * image @ means.T).argmin(1)


def second_order(model, vocabulary, ids, image, references, directions: int) -> np.ndarray:
    """First order at the mean, and the curvature along the main directions of the reference images."""
    mean = references.mean(0)
    v = np.linalg.svd(references - mean, full_matrices=False)[2][:directions].T
    spread = ((references - mean) @ v).std(0, ddof=1)
    middle = first_order(model, vocabulary, ids, mean)
    scores = middle.scores(image)
    along = (image - mean) @ v
    for j in range(directions):
        up = first_order(model, vocabulary, ids, mean + spread[j] * v[:, j])
        down = first_order(model, vocabulary, ids, mean - spread[j] * v[:, j])
        curvature = (up.vectors - down.vectors) @ v / (2 * spread[j])  # a row of the Hessian in these directions
        scores = scores + 0.5 * (along[:, j : j + 1] * (along @ curvature.T))
    return scores


def refit(model, vocabulary, retriever: Retriever, image, references, n: int) -> np.ndarray:
    """First order, corrected by ridge regression on its errors at n reference images scored exactly."""
    middle = first_order(model, vocabulary, retriever.ids, references.mean(0))
    some = references[:n]
    exact = Retriever(model, vocabulary, some, retriever.ids).exact("raw")
    errors = exact - middle.scores(some)
    centred = some - references.mean(0)
    gram = centred @ centred.T
    ridge = gram.diagonal().mean() * 0.1
    weights = np.linalg.solve(gram + ridge * np.eye(n, dtype=gram.dtype), errors - errors.mean(0))
    return middle.scores(image) + errors.mean(0) + ((image - references.mean(0)) @ centred.T) @ weights


def coverage(exact: np.ndarray, approximate: np.ndarray, k: int, top: int, axis: int) -> float:
    """Share of each query's exact `top` that lies in its approximate top k, in percent."""
    best, near = (np.argsort(-scores, axis, kind="stable") for scores in (exact, approximate))
    found = np.zeros(exact.shape, bool)
    np.put_along_axis(found, np.take(near, np.arange(min(k, near.shape[axis])), axis), True, axis)
    best = np.take(best, np.arange(min(top, best.shape[axis])), axis)
    return 100 * float(np.take_along_axis(found, best, axis).mean())


def main() -> None:
    """Run the study."""
    pipe = load(sys.argv[2] if len(sys.argv) > 2 else "flickr8k")
    corpus = read_corpus(sys.argv[1])
    split = encode_split(corpus, "dev", FeatureCache(pipe.encoder))
    photos, features = split.photos[:N], split.features[:N]
    pairs = [(i, c) for i, photo in enumerate(photos) for c in photo.captions if tokenise(c)]
    owner, sentences = np.array([i for i, _ in pairs]), [c for _, c in pairs]
    retriever = pipe.retriever(features, sentences)
    model, vocabulary, references = pipe.model, pipe.vocabulary, retriever.references
    ids, image = retriever.ids, retriever.image
    start = time.perf_counter()
    exact = retriever.exact("raw")
    brute = time.perf_counter() - start
    prior = retriever.prior
    methods = {
        "first order": lambda: first_order(model, vocabulary, ids, references.mean(0), precision="auto").scores(image),
        **{
            f"{k} centres": lambda k=k: _at_nearest(model, vocabulary, ids, image, centres(references, k))
            for k in (4, 16)
        },
        **{
            f"second order, {d} directions": lambda d=d: second_order(model, vocabulary, ids, image, references, d)
            for d in (2, 8)
        },
        **{
            f"refit on {n} images": lambda n=n: refit(model, vocabulary, retriever, image, references, n)
            for n in (16, 64)
        },
    }
    rows = {}
    for name, method in methods.items():
        start = time.perf_counter()
        approximate = method()
        seconds = time.perf_counter() - start
        row = {"seconds": seconds, "times brute force": brute / seconds}
        for direction, axis, a, b in (
            ("sentence to image", 0, exact, approximate),
            ("image to sentence", 1, exact - prior, approximate - prior),
        ):
            for top in (1, 10):
                row[f"{direction}, top {top} covered"] = [coverage(a, b, k, top, axis) for k in SHORTLISTS]
            query = "sentence" if axis == 0 else "image"
            row[f"{direction}, R@1"] = recall_figures(ranks(b, owner, query))["R@1"]
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    priors = {}
    for n in (50, 200):
        start = time.perf_counter()
        value = sentence_prior(model, retriever.sentences, references[:n], precision="auto")
        priors[f"exact over {n} references"] = (value, time.perf_counter() - start)
    priors["fast over 1000 references"] = (prior, None)
    figures = {}
    for name, (value, seconds) in priors.items():
        scores = apply_score("normalised", exact, retriever.sentences.tokens, value)
        figures[name] = {"seconds": seconds, **recall_figures(ranks(scores, owner, "image"))}
    for score in ("raw", "per-token", "posterior"):
        scores = apply_score(score, exact, retriever.sentences.tokens)
        figures[score] = recall_figures(ranks(scores, owner, "image"))
        figures[f"{score}, sentence to image"] = recall_figures(ranks(scores, owner, "sentence"))
    scores = apply_score("normalised", exact, retriever.sentences.tokens, prior)
    figures["normalised, sentence to image"] = recall_figures(ranks(scores, owner, "sentence"))
    result = {"photos": len(photos), "sentences": len(ids), "brute force seconds": brute, "shortlists": SHORTLISTS}
    write_json(OUT / "study.json", result | {"methods": rows, "image to sentence by score": figures})
    _plot(rows)
    print(json.dumps(figures, indent=1))


def _at_nearest(model, vocabulary, ids, image, means) -> np.ndarray:
    nearest = _nearest(image, means)
    scores = np.empty((len(image), len(ids)), np.float32)
    for i, mean in enumerate(means):
        here = nearest == i
        if here.any():
            scores[here] = first_order(model, vocabulary, ids, mean, precision="auto").scores(image[here])
    return scores


def _plot(rows: dict) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, direction in zip(
        figure.subplots(1, 2, sharey=True), ("sentence to image", "image to sentence"), strict=True
    ):
        for name, row in rows.items():
            axes.plot(SHORTLISTS, row[f"{direction}, top 1 covered"], marker="o", markersize=3, label=name)
        axes.set(title=direction, xlabel="shortlist", xscale="log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("exact best match in the shortlist, %")
    figure.axes[1].legend(frameon=False, fontsize=7)
    with atomic_path(OUT / "coverage.png") as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
