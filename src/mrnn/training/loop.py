"""The one training loop: batches in, best weights out, and a run that a kill cannot harm.

Shapes: B batch, N images, D feature width, V vocabulary.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mrnn.files import write_atomically
from mrnn.likelihood import pair_log_likelihood, perplexity
from mrnn.models import LanguageModel, NeuralLanguageModel
from mrnn.precision import Precision, autocast
from mrnn.text import Vocabulary
from mrnn.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from mrnn.training.data import CaptionData
from mrnn.training.objective import bits, squared_norm

LOG_EVERY = 25


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The papers do not give these values: all are our own choice, made on dev.

    Args:
        epochs: At most.
        batch: Sentences a step.
        optimizer: AdamW, or SGD with momentum .9.
        learning_rate: At the schedule's peak.
        schedule: `one-cycle` rises linearly over `warmup` and falls as a cosine to 0; `constant` stays.
        warmup: Share of all steps in which the rate rises.
        weight_decay: Decoupled, AdamW's.
        l2: Lambda of the paper's cost.
        clip: Largest norm of the gradient.
        patience: Epochs without a better dev perplexity after which training stops.
        seed: Of initial weights, order and dropout.
        precision: `auto` computes in bfloat16 where the processor or GPU is fast at it.
    """

    epochs: int = 12
    batch: int = 150
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    warmup: float = 0.1
    weight_decay: float = 0.0
    l2: float = 0.0
    clip: float = 5.0
    patience: int = 3
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self):
        for name in ("epochs", "batch", "learning_rate", "clip", "patience"):
            if getattr(self, name) <= 0:
                raise ValueError(f"training.{name} is {getattr(self, name)}, but must be above 0")
        for name in ("weight_decay", "l2"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} is {getattr(self, name)}, but must be 0 or more")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"training.warmup is {self.warmup}, but is a share between 0 and 1")
        if self.optimizer == "sgd" and self.weight_decay:
            raise ValueError("training.weight_decay is AdamW's; with SGD use training.l2, the paper's lambda")


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate at a step of `steps`."""
    if config.schedule == "constant":
        return config.learning_rate
    rise = max(1, round(config.warmup * steps))
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def log_frequencies(data: CaptionData, vocabulary: Vocabulary) -> Tensor:
    """(V,) natural log of each token's share of the training tokens, with one added to every count."""
    counts = Counter(i for sentence in data.sentences for i in sentence)
    counts[vocabulary.end] = len(data.sentences)
    smoothed = torch.tensor([counts[i] + 1.0 for i in range(len(vocabulary))])
    return (smoothed / smoothed.sum()).log()


def train(
    model: NeuralLanguageModel,
    vocabulary: Vocabulary,
    data: CaptionData,
    dev: CaptionData,
    config: TrainingConfig,
    out: Path,
    run: dict[str, Any] | None = None,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Progress:
    """Train a model, or go on with a run that was stopped, and leave it with its best weights.

    Args:
        model: With fresh weights (drawn after `torch.manual_seed(config.seed)`).
        vocabulary: The model's.
        data: Training sentences and features.
        dev: Development sentences and features; their perplexity chooses the weights.
        config: How to train.
        out: Folder for `checkpoint.safetensors` and `log.jsonl`.
        run: What else tells this run from others (recipe, data, encoder).
        on_step: Called with every record of the log.

    Raises:
        ValueError: The loss is not finite, or `out` holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    torch.manual_seed(config.seed)
    model.fit_features(data.features.to(device))
    model.set_output_bias(log_frequencies(data, vocabulary).to(device))
    optimizer = _optimizer(model, config)
    identity = {"training": asdict(config), "model": model.describe(), "run": run, "tokens": data.tokens}
    progress = Progress(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())
    best: dict[str, Tensor] = {}
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        progress, best = load_checkpoint(checkpoint, progress.run, model, optimizer)
    log = _Log(out / "log.jsonl", progress.step, on_step)
    steps_per_epoch = math.ceil(len(data.sentences) / config.batch)
    steps = config.epochs * steps_per_epoch
    features = data.features.to(device)
    while not progress.finished:
        model.train()
        total, tokens, clock = 0.0, 0, time.perf_counter()
        for batch in data.batches(vocabulary, config.batch, config.seed, progress.epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, progress.step, steps)
            batch = batch.to(device)
            optimizer.zero_grad(set_to_none=True)
            with autocast(config.precision, device):
                step_bits, step_tokens = bits(model, batch, features[batch.images])
            cost = step_bits / step_tokens
            if config.l2:
                cost = cost + config.l2 * squared_norm(model)
            cost.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            progress.step += 1
            total, tokens = total + step_bits.detach(), tokens + step_tokens
            if progress.step % LOG_EVERY == 0 or progress.step % steps_per_epoch == 0:
                mean = float(total) / tokens
                if not math.isfinite(mean):
                    raise ValueError(
                        f"the loss is not finite at step {progress.step} (epoch {progress.epoch + 1}): lower "
                        "--training.learning-rate or --training.clip; the last good checkpoint is kept"
                    )
                seconds = time.perf_counter() - clock
                log.write(
                    epoch=progress.epoch + 1,
                    step=progress.step,
                    steps=steps,
                    bits=round(mean, 4),
                    learning_rate=learning_rate(config, progress.step - 1, steps),
                    tokens_per_second=round(tokens / seconds),
                )
                total, tokens, clock = 0.0, 0, time.perf_counter()
        progress.epoch += 1
        model.eval()
        score = _perplexity(model, vocabulary, dev, device)
        log.write(epoch=progress.epoch, step=progress.step, steps=steps, dev_perplexity=round(score, 4))
        if score < progress.best_perplexity:
            progress.best_perplexity, progress.best_epoch = score, progress.epoch
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        waited = progress.epoch - progress.best_epoch
        progress.finished = progress.epoch == config.epochs or waited >= config.patience
        save_checkpoint(checkpoint, progress, model, optimizer, best)
    model.load_state_dict(best)
    model.eval()
    return progress


def _optimizer(model: torch.nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), config.learning_rate, momentum=0.9)
    # Biases are not decayed: they hold the words' frequencies.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.98), fused=True)


def _perplexity(model: LanguageModel, vocabulary: Vocabulary, data: CaptionData, device: torch.device) -> float:
    features = data.features.to(device)
    score = pair_log_likelihood(model, vocabulary, data.sentences, data.images, features)
    return perplexity(score.double().sum().item(), data.tokens)


class _Log:
    """`log.jsonl`: a record a line; what lies after the checkpoint is cut off when a run goes on."""

    def __init__(self, path: Path, step: int, on_step: Callable[[dict[str, Any]], None]):
        self._path, self._on_step = path, on_step
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, **record: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._on_step(record)
