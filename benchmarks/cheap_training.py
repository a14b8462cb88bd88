"""What cheaper training costs and saves: python -m benchmarks.cheap_training

One training step of m-RNN on made sentences, each way in a process of its own: milliseconds a step, and the greatest
memory of the process over that of one which only holds the model. Ratios are to the plain loop: float32, all logits at
once. Two vocabularies: 2,537 words, as Flickr8K's, and 50,000.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from mrnn.models import MRNN, MRNNConfig
from mrnn.models.precision import autocast
from mrnn.text import SIGNS, Vocabulary
from mrnn.training import CaptionData, ObjectiveConfig
from mrnn.training.batch import Batch
from mrnn.training.objective import Objective

WAYS = {
    "plain": {},
    "bfloat16": {"precision": "bfloat16"},
    "sampled softmax": {"softmax": "sampled"},
    "accumulated in 5 parts": {"parts": 5},
    "bfloat16, accumulated": {"precision": "bfloat16", "parts": 5},
    "compiled": {"compile": True},
}
BATCH, LENGTH, STEPS = 150, 11, 8


def measure(words: int, precision: str = "float32", softmax: str = "full", parts: int = 1, compile: bool = False):
    """Milliseconds a step, and MiB beyond the model and its optimiser."""
    torch.manual_seed(0)
    vocabulary = Vocabulary([*SIGNS, *(f"w{i}" for i in range(words - len(SIGNS)))])
    model = MRNN(MRNNConfig(), words, 1280).train()
    features = torch.randn(BATCH, 1280)
    sentences = torch.randint(3, words, (BATCH, LENGTH)).tolist()
    data = CaptionData(sentences, list(range(BATCH)), features)
    objective = Objective(ObjectiveConfig(softmax=softmax), vocabulary, data)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    if compile:
        model.encode_text = torch.compile(model.encode_text, dynamic=True)
        model.fuse = torch.compile(model.fuse, dynamic=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = Batch.of(sentences, list(range(BATCH)), vocabulary)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        for part in batch.split(BATCH // parts):
            with autocast(precision, torch.device("cpu")):  # type: ignore[arg-type]
                cost = objective(model, part, features)
            (cost.total / parts).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1000 * min(seconds[2:]), (after - before) / 1024


def main() -> None:
    """Measure every way in a process of its own."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
        return
    for words in (2537, 50000):
        plain = None
        print(f"\n{words:,} words: milliseconds a step, speed, MiB, memory")
        for name, options in WAYS.items():
            command = [sys.executable, "-m", "benchmarks.cheap_training", json.dumps({"words": words, **options})]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            ms, mib = json.loads(result.stdout.splitlines()[-1])
            plain = plain or (ms, mib)
            print(f"| {name} | {ms:.0f} | {plain[0] / ms:.2f} x | {mib:.0f} | {mib / plain[1]:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
