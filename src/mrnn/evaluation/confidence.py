"""How well confidence ranks captions by their CIDEr: rank correlation, and the CIDEr of the surest.

Shapes: N captions.
"""

from collections.abc import Sequence

import numpy as np

from mrnn.cider import CIDEr
from mrnn.tasks.generation import Caption
from mrnn.text import tokenise

SURELY = (25, 50, 75)


def confidence_figures(captions: Sequence[Caption], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Spearman's correlation with CIDEr, and the mean CIDEr of the surest.

    Args:
        captions: Of N photos, one each.
        references: For each photo its sentences.

    Returns:
        `confidence correlation`; beside it `likelihood correlation`, of the log-likelihood a token; and `CIDEr of the
        surest K %`, those with the highest confidence. Nothing of a model without confidence, or of fewer than four
        photos.
    """
    sure = [caption.confidence for caption in captions]
    if len(captions) < 4 or any(one is None for one in sure):
        return {}
    from scipy.stats import spearmanr

    said = [[tokens for text in several if (tokens := tokenise(text))] or [["."]] for several in references]
    cider = CIDEr(said)
    worth = np.array([cider(i, caption.tokens) for i, caption in enumerate(captions)])
    likely = [caption.log_likelihood / len(caption.log_probabilities) for caption in captions]
    order = np.argsort(-np.array(sure, np.float64), kind="stable")
    figures = {
        "confidence correlation": float(spearmanr(sure, worth)[0]),
        "likelihood correlation": float(spearmanr(likely, worth)[0]),
    }
    for percent in SURELY:
        some = order[: max(1, round(len(order) * percent / 100))]
        figures[f"CIDEr of the surest {percent} %"] = float(worth[some].mean())
    return figures
