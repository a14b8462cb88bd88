"""Captions a second from cached features, beam 5: batched search against one image at a time in float32."""

import torch

from benchmarks.common import product_rate, seconds
from mrnn.models.precision import matrix_dtype
from mrnn.pipeline import load
from mrnn.tasks.generation import GenerationConfig, generate

N = 1000
STEPS = 12.9  # of a caption's search, measured on Flickr8K


def main() -> None:
    """Print captions a second of both, their ratio, and the share of the machine's product rate, by either runtime."""
    beam = GenerationConfig(beam=5, length_exponent=0.7)
    for runtime in ("onnx", "torch"):
        pipe = load("flickr8k", runtime, "cpu")
        model, vocabulary = pipe.model, pipe.vocabulary
        image = pipe.references[:N]  # of real training photos
        few = image[:32]

        def fast(model=model, vocabulary=vocabulary, image=image):
            generate(model, vocabulary, image, beam)

        def plain(model=model, vocabulary=vocabulary, few=few):
            for row in few:
                generate(model, vocabulary, row[None], beam, precision="float32")

        batched, slow = N / seconds(fast), len(few) / seconds(plain, 1)
        weights = 512 * len(vocabulary) + 256 * 128 + 256 * 256 + 2 * 256 * 512
        dtype = matrix_dtype("auto", torch.device("cpu")) if runtime == "torch" else torch.float32
        share = batched * 2 * weights * 5 * STEPS / product_rate(dtype)
        print(
            f"captioning  {runtime}: one by one {slow:,.0f} captions/s, batched {batched:,.0f} captions/s: "
            f"{batched / slow:.1f} x; {share:.0%} of the {str(dtype).removeprefix('torch.')} product rate",
            flush=True,
        )
