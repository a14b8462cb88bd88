"""Training throughput: the package's loop against a plain float32 loop over the same model.

The plain loop is what one writes first: sentences shuffled and padded to the longest of their batch, the
softmax over every position, padding included, everything in float32. Both run the same optimiser.
"""

import time

import torch
from torch import nn

from benchmarks.common import VOCABULARY, V, made_data, paper_model, product_rate
from mrnn.models.precision import autocast
from mrnn.training import TrainingConfig
from mrnn.training.batch import Batch
from mrnn.training.loop import _optimizer
from mrnn.training.objective import Objective

DROPOUT = {"dropout_word": 0.25, "dropout_image": 0.5, "dropout_multimodal": 0.5}
CONFIG = TrainingConfig(weight_decay=0.6)


def plain_batches(data, size, seed):
    """Shuffled batches padded to their longest sentence."""
    order = torch.randperm(len(data.sentences), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield Batch.of([data.sentences[i] for i in rows], [data.images[i] for i in rows], VOCABULARY)


def plain_epoch(model, optimizer, data, seed=0):
    """One epoch of the plain loop."""
    for batch in plain_batches(data, CONFIG.batch, seed):
        optimizer.zero_grad()
        logits = model(batch.inputs, data.features[batch.images])
        nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        optimizer.step()


def fast_epoch(model, optimizer, data, seed=0):
    """One epoch as `mrnn.training.train` runs it."""
    objective = Objective(CONFIG.objective, VOCABULARY, data)
    for batch in data.batches(VOCABULARY, CONFIG.batch, seed, 0):
        optimizer.zero_grad(set_to_none=True)
        with autocast("auto", torch.device("cpu")):
            cost = objective(model, batch, data.features)
        cost.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        optimizer.step()


def main() -> None:
    """Print tokens a second of both loops, their ratio, and the share of the machine's product rate."""
    data = made_data()
    speeds = {}
    for name, epoch in (("plain", plain_epoch), ("fast", fast_epoch)) * 2:
        model = paper_model(**DROPOUT).train()
        optimizer = _optimizer(model, Objective(CONFIG.objective, VOCABULARY, data), CONFIG)
        start = time.perf_counter()
        epoch(model, optimizer, data)
        speeds[name] = max(speeds.get(name, 0), data.tokens / (time.perf_counter() - start))
    weights = 512 * V + 256 * 128 + 256 * 256 + 2 * 256 * 512 + 1280 * 512 / 11.8
    rate = 6 * weights * speeds["fast"]
    limit = product_rate(torch.bfloat16)
    print(
        f"training    plain {speeds['plain']:,.0f} tokens/s, ours {speeds['fast']:,.0f} tokens/s: "
        f"{speeds['fast'] / speeds['plain']:.2f} x; {rate / limit:.0%} of the bfloat16 product rate "
        f"({limit / 1e9:.0f} GFLOP/s, float32 {product_rate(torch.float32) / 1e9:.0f})",
        flush=True,
    )
