"""Figures that the papers report, as we know them, and how surely.

Sure: V read in a primary source, S read in a secondary source, M recalled and not checked against the paper.
"""

from dataclasses import dataclass, field

PAPER_1 = "arXiv 1410.1090"
PAPER_2 = "arXiv 1412.6632"


@dataclass(frozen=True)
class Reported:
    """A row of a published table.

    Args:
        label: The model.
        source: Where it is published.
        sure: V, S or M.
        figures: By the names that `evaluate` gives them.
    """

    label: str
    source: str
    sure: str
    figures: dict[str, float] = field(default_factory=dict)


def _bleu(*values: float) -> dict[str, float]:
    return {f"BLEU-{n}": value for n, value in enumerate(values, 1)}


def _precision(*values: float) -> dict[str, float]:
    """Paper 1's B-n, which look like the precision of n-grams of one length."""
    return {f"precision-{n}": value for n, value in enumerate(values, 1)}


def _recall(direction: str, *values: float) -> dict[str, float]:
    names = ("R@1", "R@5", "R@10", "median rank")
    return {f"{direction} {name}": value for name, value in zip(names, values, strict=False)}


def _both(image: tuple[float, ...], sentence: tuple[float, ...]) -> dict[str, float]:
    return _recall("image-to-sentence", *image) | _recall("sentence-to-image", *sentence)


CAPTIONING: dict[str, tuple[Reported, ...]] = {
    "flickr8k": (
        Reported("m-RNN, AlexNet", PAPER_1, "M", {"perplexity": 24.39, **_precision(0.5778, 0.2751, 0.2307)}),
        Reported("m-RNN, AlexNet", PAPER_2, "M", {"perplexity": 24.39, **_bleu(0.565, 0.386, 0.256, 0.170)}),
        Reported("NIC (Vinyals et al.)", "arXiv 1411.4555", "S", _bleu(0.63, 0.41, 0.27)),
        Reported("Hard attention (Xu et al.)", "arXiv 1502.03044", "S", _bleu(0.67, 0.457, 0.314, 0.213)),
    ),
    "flickr30k": (
        Reported("m-RNN, AlexNet", PAPER_1, "M", {"perplexity": 35.11, **_precision(0.5479, 0.2392, 0.1952)}),
        Reported("m-RNN, VGG", PAPER_2, "M", {"perplexity": 20.72, **_bleu(0.60, 0.41, 0.28, 0.19)}),
    ),
    "iaprtc12": (
        Reported("back-off GT2", PAPER_1, "M", {"perplexity": 54.5, **_precision(0.323, 0.145, 0.059)}),
        Reported("back-off GT3", PAPER_1, "M", {"perplexity": 55.6, **_precision(0.312, 0.131, 0.059)}),
        Reported("LBL", PAPER_1, "M", {"perplexity": 20.1, **_precision(0.327, 0.144, 0.068)}),
        Reported("MLBL-B, DeCAF", PAPER_1, "M", {"perplexity": 24.7, **_precision(0.373, 0.187, 0.098)}),
        Reported("MLBL-F, DeCAF", PAPER_1, "M", {"perplexity": 21.8, **_precision(0.361, 0.184, 0.092)}),
        Reported("RNN-Base", PAPER_1, "M", {"perplexity": 7.77, **_precision(0.3134, 0.1168, 0.0803)}),
        Reported("m-RNN, AlexNet", PAPER_1, "M", {"perplexity": 6.92, **_precision(0.3951, 0.1828, 0.1311)}),
    ),
    "coco": (Reported("m-RNN, VGG, beam 10, 1,000 photos", PAPER_2, "V", _bleu(0.675, 0.502, 0.367, 0.271)),),
}

RETRIEVAL: dict[str, tuple[Reported, ...]] = {
    "flickr8k": (
        Reported("DeViSE", PAPER_1, "S", _both((4.8, 16.5, 27.3, 28), (5.9, 20.1, 29.6, 29))),
        Reported("SDT-RNN, R-CNN", PAPER_1, "S", _both((6.0, 22.7, 34.0, 23), (6.6, 21.6, 31.7, 25))),
        Reported("DeepFE, R-CNN", PAPER_1, "S", _both((12.6, 32.9, 44.0, 14), (9.7, 29.6, 42.5, 15))),
        Reported("m-RNN, AlexNet", PAPER_1, "S", _both((14.5, 37.2, 48.5, 11), (11.5, 31.0, 42.4, 15))),
        Reported("Kiros et al., VGG", "arXiv 1411.2539", "V", _both((18.0, 40.9, 55.0, 8), (12.5, 37.0, 51.5, 10))),
        Reported("Fisher vectors", "Klein et al. 2015", "S", _both((31.0, 59.3, 73.7), (21.2, 50.0, 64.8))),
    ),
    "flickr30k": (
        Reported("m-RNN, AlexNet", PAPER_1, "S", _both((18.4, 40.2, 50.9, 10), (12.6, 31.2, 41.5, 16))),
        Reported("m-RNN, VGG", PAPER_2, "S", _both((35.4, 63.8, 73.7, 3), (22.8, 50.7, 63.1, 5))),
    ),
    "iaprtc12": (Reported("m-RNN, AlexNet", PAPER_1, "M", _both((20.9, 43.8, 54.4, 8), (13.2, 31.2, 40.8, 21))),),
    "coco": (),
}
