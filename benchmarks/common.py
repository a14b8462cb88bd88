"""The machine's limits, a clock, and made data of Flickr8K's proportions."""

import time
from collections.abc import Callable

import torch

from mrnn.models import MRNN, MRNNConfig
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData

V, D = 2537, 1280
VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(V - len(SIGNS)))])


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest time of several runs after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a 4000 x 512 by 512 x 2537 product."""
    a, b = torch.randn(4000, 512).to(dtype), torch.randn(V, 512).to(dtype)
    with torch.inference_mode():
        return 2 * 4000 * 512 * V / seconds(lambda: torch.mm(a, b.t()), 10)


def made_data(sentences: int = 6000, seed: int = 0) -> CaptionData:
    """Random words with Flickr8K's sentence lengths (11.8 tokens on average, 2 to 36) and five captions a photo."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(sentences, generator=generator) * 3.7 + 10.8).round().clamp(2, 36).long().tolist()
    ranks = torch.arange(3, V, dtype=torch.float)
    words = torch.multinomial(1 / ranks, sum(lengths), replacement=True, generator=generator) + 3
    split = [ids.tolist() for ids in words.split(lengths)]
    images = [i // 5 for i in range(sentences)]
    return CaptionData(split, images, torch.randn(sentences // 5 + 1, D, generator=generator))


def paper_model(**options) -> MRNN:
    """m-RNN of the paper's sizes with random weights."""
    torch.manual_seed(0)
    return MRNN(MRNNConfig(**options), V, D)
