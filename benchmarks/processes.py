"""Training by several processes against one: python -m benchmarks.processes [cpu|cuda]

Tokens a second, the best of a few stretches of 15 to 25 steps: one process with all cores, the same started by
torchrun, and as many processes as there are cores, of one thread each, or GPUs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import VOCABULARY, made_data, paper_model
from mrnn.threads import cores
from mrnn.training import ObjectiveConfig, TrainingConfig, train
from mrnn.training.distributed import join

TERMS = {"likelihood": ObjectiveConfig(), "likelihood and contrastive": ObjectiveConfig(contrastive=0.3)}


def measure(device: str) -> None:
    """Train, as one of the processes that were started or alone."""
    with join(device) as world, tempfile.TemporaryDirectory() as folder:
        data, dev = made_data(6000), made_data(50, seed=1)
        for name, objective in TERMS.items():
            records, config = [], TrainingConfig(epochs=2, objective=objective)
            model = paper_model().to(world.device)
            train(model, VOCABULARY, data, dev, config, Path(folder) / name, None, records.append, world=world)
            if world.leads:
                best = max(record["tokens_per_second"] for record in records if "bits" in record)
                threads = f", {torch.get_num_threads()} threads each" if device == "cpu" else ""
                print(f"{name}: {world.size} processes{threads}: {best:,} tokens/s", flush=True)


def main() -> None:
    """Start each way in processes of its own."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if "MRNN_MEASURE" in os.environ:
        measure(device)
        return
    many = cores() if device == "cpu" else torch.cuda.device_count()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for start, threads in (([], cores()), ([*torchrun, "1"], cores()), ([*torchrun, str(many)], cores() // many)):
        environment = {**os.environ, "MRNN_MEASURE": "1", "OMP_NUM_THREADS": str(max(1, threads))}
        subprocess.run([sys.executable, *start, "-m", "benchmarks.processes", device], check=True, env=environment)


if __name__ == "__main__":
    main()
