"""Retrieval: exact scores against the plain scorer and the machine's limit; shortlists against brute force."""

import time

import torch

from benchmarks.common import VOCABULARY, made_data, paper_model, product_rate, seconds
from mrnn.likelihood import pair_log_likelihood
from mrnn.retrieval import Retriever, encode_sentences, log_likelihood

N, S = 200, 400


def main() -> None:
    """Print pairs a second, ratios, and the share of the bfloat16 product rate."""
    data = made_data(S)
    model = paper_model().eval()
    features = torch.randn(N, model.features, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        image = model.encode_image(features)
    few = 4
    flat = [(i, s) for i in range(few) for s in data.sentences]
    start = time.perf_counter()
    pair_log_likelihood(model, VOCABULARY, [s for _, s in flat], [i for i, _ in flat], features)
    plain = few * S / (time.perf_counter() - start)
    encoded = encode_sentences(model, VOCABULARY, data.sentences)
    for precision in ("float32", "bfloat16"):
        elapsed = seconds(lambda p=precision: log_likelihood(model, encoded, image, precision=p), 4)
        rows = N * len(encoded.text) / elapsed
        limit = product_rate(getattr(torch, precision))
        share = rows * 2 * 512 * len(VOCABULARY) / limit
        print(
            f"retrieval   {precision}: plain {plain:,.0f} pairs/s, ours {N * S / elapsed:,.0f} pairs/s: "
            f"{N * S / elapsed / plain:.1f} x; {share:.0%} of the {precision} product rate",
            flush=True,
        )
    retriever = Retriever(model, VOCABULARY, image, data.sentences)
    brute = seconds(lambda: retriever.exact("raw"), 1)
    short = seconds(lambda: Retriever(model, VOCABULARY, image, data.sentences).ranked("sentence", "raw", 20), 1)
    print(f"retrieval   shortlist of 20 in {N}, vectors included: {brute / short:.1f} x brute force", flush=True)
