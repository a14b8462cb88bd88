"""Search time against pool size in both directions, 1,000 to 1,000,000: a first-order product and its best ten.

python -m benchmarks.pools DATA_DIR  writes docs/retrieval/pools.json and pools.png. Vectors are real ones of the
train split, repeated with noise of a fifth of their spread where the pool is larger than the data.
"""

import sys
import time
from pathlib import Path

import numpy as np

from mrnn.corpora import read_corpus
from mrnn.encoders import FeatureCache
from mrnn.encoders.splits import encode_split
from mrnn.files import atomic_path, write_json
from mrnn.pipeline import load
from mrnn.runtime.protocol import top_k
from mrnn.tasks.retrieval import first_order
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


def measure(vectors: np.ndarray, constants: np.ndarray | float, queries: np.ndarray) -> float:
    """Milliseconds a query."""
    times = []
    for query in queries:
        start = time.perf_counter()
        top_k((vectors @ query + constants)[None], 10)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Measure and draw."""
    pipe = load("flickr8k")
    corpus = read_corpus(sys.argv[1])
    splits = {name: encode_split(corpus, name, FeatureCache(pipe.encoder)) for name in ("train", "dev")}
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
    rows: dict[str, dict[int, float]] = {"sentence to image": {}, "image to sentence": {}}
    for n in SIZES:
        pool = grown(image["train"], n)
        rows["sentence to image"][n] = measure(pool, 0.0, dev.vectors[:QUERIES])
        # Normalised by the score at the mean image, which stands in for the prior.
        constant = -(train.vectors @ centre)
        both = grown(np.concatenate([train.vectors, constant[:, None]], 1), n)
        rows["image to sentence"][n] = measure(both[:, :-1], both[:, -1], image["dev"][:QUERIES])
        print(n, {d: rows[d][n] for d in rows}, flush=True)
    write_json(OUT / "pools.json", {"milliseconds": rows})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for direction, colour in (("sentence to image", "tab:blue"), ("image to sentence", "tab:orange")):
        axes.plot(SIZES, [rows[direction][n] for n in SIZES], color=colour, marker="o", label=direction)
    axes.set(xlabel="pool", ylabel="milliseconds a query", xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(OUT / "pools.png") as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    main()
