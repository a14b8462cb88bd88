"""Search time against pool size in both directions, 1,000 to 1,000,000, with recall of the first-order ranking.

python -m benchmarks.pools DATA_DIR  writes docs/retrieval/pools.json and pools.png. Vectors are real ones of the
train split, repeated with noise of a fifth of their spread where the pool is larger than the data.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from mrnn.corpora import read_corpus
from mrnn.encoders import FeatureCache
from mrnn.files import atomic_path, write_json
from mrnn.pipeline import load
from mrnn.recipes import encode_split
from mrnn.retrieval import VectorIndex, first_order
from mrnn.text import tokenise

OUT = Path("docs/retrieval")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUERIES = 50


def grown(vectors: np.ndarray, n: int) -> np.ndarray:
    """n vectors of the same distribution."""
    rng = np.random.default_rng(0)
    if n <= len(vectors):
        return vectors[:n]
    rows = rng.integers(0, len(vectors), n)
    spread = 0.2 * vectors.std(0)
    result = np.empty((n, vectors.shape[1]), np.float32)
    for start in range(0, n, 100_000):
        some = vectors[rows[start : start + 100_000]]
        result[start : start + len(some)] = some + rng.normal(size=some.shape).astype(np.float32) * spread
    return result


def measure(vectors: np.ndarray, constants: np.ndarray | None, queries: np.ndarray) -> dict[str, float]:
    """Milliseconds a query of the index and of a full product, and recall at 10."""
    start = time.perf_counter()
    index = VectorIndex(vectors, constants)
    built = time.perf_counter() - start
    full = torch.from_numpy(index.vectors)
    times, plain, hits = [], [], 0
    for query in queries:
        start = time.perf_counter()
        which, _ = index.search(query, 10)
        times.append(time.perf_counter() - start)
        whole = torch.from_numpy(np.append(query, np.float32(1)) if constants is not None else query)
        start = time.perf_counter()
        exact = (full @ whole).topk(10).indices
        plain.append(time.perf_counter() - start)
        hits += len(set(which.tolist()) & set(exact.tolist()))
    return {
        "index ms": 1e3 * float(np.median(times)),
        "full product ms": 1e3 * float(np.median(plain)),
        "recall@10": hits / (10 * len(queries)),
        "build s": built,
    }


def main() -> None:
    """Measure and draw."""
    pipe = load("flickr8k")
    corpus = read_corpus(sys.argv[1])
    splits = {name: encode_split(corpus, name, FeatureCache(pipe.encoder)) for name in ("train", "dev")}
    with torch.inference_mode():
        image = {name: pipe.model.encode_image(split.features) for name, split in splits.items()}
    centre = pipe.references.mean(0)
    captions = {
        name: pipe.sentence_ids([p.captions[0] for p in split.photos if tokenise(p.captions[0])])
        for name, split in splits.items()
    }
    expanded = {
        name: first_order(pipe.model, pipe.vocabulary, ids, centre, precision="auto") for name, ids in captions.items()
    }
    train, dev = expanded["train"], expanded["dev"]
    rows: dict[str, dict[int, dict[str, float]]] = {"sentence to image": {}, "image to sentence": {}}
    for n in SIZES:
        pool = grown(image["train"].numpy(), n)
        rows["sentence to image"][n] = measure(pool, None, dev.vectors[:QUERIES].numpy())
        # Normalised by the score at the mean image, which stands in for the prior.
        constant = -(train.vectors @ centre).numpy()
        both = grown(np.concatenate([train.vectors.numpy(), constant[:, None]], 1), n)
        queries = image["dev"][:QUERIES].numpy()
        rows["image to sentence"][n] = measure(both[:, :-1], both[:, -1], queries)
        print(n, {d: rows[d][n] for d in rows}, flush=True)
    write_json(OUT / "pools.json", rows)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for direction, colour in (("sentence to image", "tab:blue"), ("image to sentence", "tab:orange")):
        for key, style in (("index ms", "-"), ("full product ms", ":")):
            times = [rows[direction][n][key] for n in SIZES]
            axes.plot(SIZES, times, style, color=colour, marker="o", label=f"{direction}, {key[:-3]}")
    axes.set(xlabel="pool", ylabel="milliseconds a query", xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(OUT / "pools.png") as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
