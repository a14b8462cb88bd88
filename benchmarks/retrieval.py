"""Retrieval: exact scores against the plain scorer and the machine's limit; shortlists against brute force."""

import time

import numpy as np
import torch

from benchmarks.common import VOCABULARY, made_data, product_rate, seconds
from mrnn.models import LanguageModel
from mrnn.models.hand import TorchRuntime
from mrnn.models.precision import matrix_dtype
from mrnn.pipeline import load
from mrnn.runtime import Precision, Runtime
from mrnn.tasks.retrieval import Retriever, encode_sentences, log_likelihood
from mrnn.training.batch import Batch, real_token_logits
from mrnn.training.data import CaptionData

N, S, FEW = 200, 400, 4


@torch.inference_mode()
def plain_log_likelihood(model: LanguageModel, data: CaptionData, image: np.ndarray) -> None:
    """Every pair by itself: sentences are padded and read anew for every image."""
    for row in torch.from_numpy(image):
        for batch in Batch.of(data.sentences, [0] * len(data.sentences), VOCABULARY).split(128):
            logits, targets = real_token_logits(model, batch, row.expand(len(batch.images), -1))
            torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def main() -> None:
    """Print pairs a second, ratios, and the share of the machine's product rate, by either runtime."""
    data = made_data(S)
    pipe = load("flickr8k", "torch", "cpu")  # of the paper's sizes, with as many words as the made data
    assert isinstance(pipe.model, TorchRuntime) and len(pipe.vocabulary) == len(VOCABULARY)
    image = pipe.references[:N]
    start = time.perf_counter()
    plain_log_likelihood(pipe.model.model, data, image[:FEW])
    plain = FEW * S / (time.perf_counter() - start)
    onnx = load("flickr8k", "onnx", "cpu").model
    ways: list[tuple[str, Runtime, Precision]] = [
        ("torch", pipe.model, "float32"),
        ("torch", pipe.model, "auto"),
        ("onnx", onnx, "float32"),
    ]
    for name, model, precision in ways:
        encoded = encode_sentences(model, VOCABULARY, data.sentences)
        elapsed = seconds(lambda m=model, e=encoded, p=precision: log_likelihood(m, e, image, precision=p), 2)
        dtype = matrix_dtype(precision, torch.device("cpu"))
        share = N * len(encoded.text) / elapsed * 2 * 512 * len(VOCABULARY) / product_rate(dtype)
        print(
            f"retrieval   {name}, {precision}: plain {plain:,.0f} pairs/s, ours {N * S / elapsed:,.0f} pairs/s: "
            f"{N * S / elapsed / plain:.1f} x; {share:.0%} of the {str(dtype).removeprefix('torch.')} product rate",
            flush=True,
        )
    for name, model in (("torch", pipe.model), ("onnx", onnx)):

        def short(model=model):
            Retriever(model, VOCABULARY, image, data.sentences).ranked("sentence", "raw", 20)

        def brute(model=model):
            Retriever(model, VOCABULARY, image, data.sentences).exact("raw")

        ratio = seconds(brute, 1) / seconds(short, 1)
        print(f"retrieval   {name}: shortlist of 20 in {N}, vectors included: {ratio:.1f} x brute force", flush=True)
