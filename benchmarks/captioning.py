"""Captions a second from cached features, beam 5: batched search against one image at a time in float32."""

import torch

from benchmarks.common import product_rate, seconds
from mrnn.generation import GenerationConfig, generate
from mrnn.pipeline import load

N = 1000
TOKENS, STEPS = 10.4, 12.9  # measured on Flickr8K: of a caption, end sign included, and of its search


def main() -> None:
    """Print captions a second of both, their ratio, and the share of the machine's product rate."""
    pipe = load("flickr8k")
    model, vocabulary = pipe.model, pipe.vocabulary
    image = pipe.references[:N]  # of real training photos
    beam = GenerationConfig(beam=5, length_exponent=0.7)
    fast = N / seconds(lambda: generate(model, vocabulary, image, beam))
    few = image[:32]

    def plain():
        for row in few:
            generate(model, vocabulary, row[None], beam, precision="float32")

    slow = len(few) / seconds(plain, 1)
    weights = 512 * len(vocabulary) + 256 * 128 + 256 * 256 + 2 * 256 * 512
    share = fast * 2 * weights * 5 * STEPS / product_rate(torch.bfloat16)
    print(
        f"captioning  one by one {slow:,.0f} captions/s, batched {fast:,.0f} captions/s: {fast / slow:.1f} x; "
        f"{share:.0%} of the bfloat16 product rate",
        flush=True,
    )
