"""An n-gram model at use: its tables, looked up by NumPy alone (`models/ngram.py` counts them).

    P(w | h) = P*(w | h)                 if the n-gram h w is in the table of its order
             = alpha(h) P(w | h')        otherwise; h' is h without its first word

Shapes: as in `protocol.py`; H words of history (order - 1), what is called M elsewhere; U different histories; G
n-grams of one order.
"""

from collections.abc import Mapping

import numpy as np

from mrnn.runtime.protocol import Array, Runtime, State
from mrnn.shapes import Float, Int

NONE = -1  # in a history, where the sentence has not begun


class NGramRuntime(Runtime):
    """Back-off over tables.

    Args:
        tables: `unigram` (V,) and `log_alpha_1` (V,); of the orders n from 2 on `keys_n` (G,), the n-grams as
            ascending numbers of base V, `log_p_n` (G,) and, below the highest order, `log_alpha_n` (G,).
        order: Of the model.
        features: Width of the image features, which change nothing.

    Raises:
        ValueError: The tables are not those of such a model.
    """

    name = "ngram"
    uses_image = False

    def __init__(self, tables: Mapping[str, Array], order: int, features: int):
        _check(tables, order)
        self.tables, self.order = tables, order
        self.vocabulary, self.feature_shape, self.image_width = len(tables["unigram"]), (features,), order - 1

    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """Zeros, whatever the image."""
        return np.zeros((len(features), self.image_width), np.float32)

    def begin(self, n: int) -> State:
        """No word yet."""
        return np.full((n, self.order - 1), NONE)

    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """Their histories."""
        return state[rows]

    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B H"], State]:
        """The last H words, as numbers (exact up to 16 million words)."""
        history = np.concatenate([state[:, 1:], words[:, None]], 1)
        return history.astype(np.float32), history

    def distribution(self, text: Float[Array, "R H"], image: Float[Array, "R H"]) -> Float[Array, "R V"]:
        """Log P(w | h) of every word."""
        unique, place = np.unique((text + image).astype(np.int64), axis=0, return_inverse=True)
        return self._of(unique)[place.reshape(-1)]

    def pull(
        self, text: Float[Array, "R H"], image: Float[Array, "R H"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R H"]:
        """Nothing: there is no image."""
        return np.zeros_like(image)

    def _of(self, histories: Int[Array, "U H"]) -> Float[Array, "U V"]:
        """From single words up: every order backs off from the one below, then sets what it has counted."""
        V = self.vocabulary
        rows = np.tile(self.tables["unigram"], (len(histories), 1))
        for n in range(2, self.order + 1):
            of = histories[:, histories.shape[1] - (n - 1) :]
            begun = (of != NONE).all(1)
            key = np.zeros(len(of), np.int64)
            for word in of.T:
                key = key * V + word.clip(0)
            rows += np.where(begun, self._log_alpha(n - 1, key), 0)[:, None]
            keys, log_p = self.tables[f"keys_{n}"], self.tables[f"log_p_{n}"]
            first, last = np.searchsorted(keys, key * V), np.searchsorted(keys, (key + 1) * V)
            counts = np.where(begun, last - first, 0)
            row = np.arange(len(key)).repeat(counts)
            entry = np.arange(len(row)) + (first - (counts.cumsum() - counts))[row]
            rows[row, keys[entry] % V] = log_p[entry]
        return rows

    def _log_alpha(self, n: int, key: Int[Array, " U"]) -> Float[Array, " U"]:
        """Of histories of n words; 0, so that the order below stands as it is, for those never counted."""
        alphas = self.tables[f"log_alpha_{n}"]
        if n == 1:
            return alphas[key]
        keys = self.tables[f"keys_{n}"]
        if not len(keys):
            return np.zeros(len(key), np.float32)
        place = np.searchsorted(keys, key).clip(max=len(keys) - 1)
        return np.where(keys[place] == key, alphas[place], np.float32(0))


def _check(tables: Mapping[str, Array], order: int) -> None:
    if not isinstance(order, int) or not 2 <= order <= 5:
        raise ValueError(f"the order of an n-gram model is 2 to 5, not {order!r}")
    sizes = {"unigram": "unigram", "log_alpha_1": "unigram"}
    for n in range(2, order + 1):
        sizes |= {f"{name}_{n}": f"keys_{n}" for name in ("keys", "log_p", *["log_alpha"] * (n < order))}
    for name, other in sizes.items():
        if name not in tables or other not in tables or tables[name].shape != (tables[other].size,):
            raise ValueError(f"the table {name} is missing, or of another size than {other}")
        if (tables[name].dtype.kind == "i") != name.startswith("keys") or np.isnan(tables[name]).any():
            raise ValueError(f"the table {name} holds something else than its numbers")
