"""First-order search over pools of any size, by faiss.

A first-order score is constant + q . b, one inner product: for a sentence the images' vectors b are indexed,
for an image the sentences' q with the constant as one more number (and a 1 added to b).

Shapes: N candidates, M multimodal width, K results.
"""

import numpy as np

BRUTE_FORCE = 20_000
_COARSE = 1024
_WIDTH = 128


class VectorIndex:
    """Candidates by inner product: brute force for small pools, an inverted file of compressed vectors for large.

    In a large pool vectors are compressed (their main directions, a byte each) and only lists near the query
    are read; the best are then compared again in full.

    Args:
        vectors: (N, M) float32.
        constants: (N,) added to the products; 0 if None.
        probes: Lists that are read, of 1,024.
        seed: Of the lists.

    Raises:
        ValueError: The pool is large and faiss is not installed.
    """

    def __init__(self, vectors: np.ndarray, constants: np.ndarray | None = None, probes: int = 512, seed: int = 0):
        vectors = np.ascontiguousarray(vectors, np.float32)
        if constants is not None:
            vectors = np.concatenate([vectors, np.asarray(constants, np.float32)[:, None]], 1)
        self.vectors, self.has_constants, self.probes = vectors, constants is not None, probes
        self._index = _build(vectors, seed) if len(vectors) > BRUTE_FORCE else None

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best candidates, best first.

        Args:
            query: (M,).
            k: How many; fewer if there are fewer.

        Returns:
            (K,) positions and (K,) scores.
        """
        query = np.asarray(query, np.float32)
        if self.has_constants:
            query = np.append(query, np.float32(1))
        k = min(k, len(self.vectors))
        if self._index is None:
            scores = self.vectors @ query
            which = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(k)
        else:
            import faiss

            parameters = faiss.SearchParametersIVF(nprobe=self.probes)  # ty: ignore[unknown-argument]
            whole = faiss.SearchParametersPreTransform(index_params=parameters)  # ty: ignore[unknown-argument]
            compared = max(1000, 4 * k, len(self.vectors) // 250)  # in full, to mend what compression confused
            _, found = self._index.search(query[None], compared, params=whole)
            which = found[0][found[0] >= 0]
            scores = np.empty(0)
        values = self.vectors[which] @ query if self._index is not None else scores[which]
        order = np.argsort(-values, kind="stable")[:k]
        return which[order], values[order]


def _build(vectors: np.ndarray, seed: int):
    try:
        import faiss
    except ImportError:
        raise ValueError(f"a pool of {len(vectors):,} needs faiss: pip install 'mrnn[index]'") from None
    width = min(_WIDTH, vectors.shape[1])
    index = faiss.index_factory(vectors.shape[1], f"PCA{width},IVF{_COARSE},SQ8", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(seed)
    index.train(vectors[rng.choice(len(vectors), min(len(vectors), 50 * _COARSE), replace=False)])
    index.add(vectors)
    # One query is shared out over the cores list by list.
    faiss.extract_index_ivf(index).parallel_mode = 1
    return index
