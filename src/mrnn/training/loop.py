"""The one training loop: batches in, best weights out, and a run that a kill cannot harm.

Shapes: B batch, N images, D feature width, V vocabulary.
"""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mrnn.cider import CIDEr
from mrnn.files import remove_leftovers, write_atomically
from mrnn.models import LanguageModel, NeuralLanguageModel, model_name
from mrnn.models.hand import TorchRuntime
from mrnn.models.precision import Precision, autocast
from mrnn.runtime import Runtime
from mrnn.tasks.generation import GenerationConfig, generate
from mrnn.tasks.likelihood import log_likelihood_of, perplexity
from mrnn.text import Vocabulary
from mrnn.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from mrnn.training.data import CaptionData, references
from mrnn.training.distributed import ALONE, World
from mrnn.training.objective import Cost, Objective, ObjectiveConfig

LOG_EVERY = 25


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The papers do not give these values: all are our own choice, made on dev.

    Args:
        epochs: At most. More of them may be asked for when a run has ended; the schedule then is that of all.
        batch: Sentences a step, of all processes together.
        optimizer: AdamW, or SGD with momentum .9.
        learning_rate: At the schedule's peak.
        schedule: `one-cycle` rises linearly over `warmup` and falls as a cosine to 0; `constant` stays.
        warmup: Share of all steps in which the rate rises.
        encoder_rate: Learning rate of a CNN's trained blocks, as a share of the others'; 0 leaves them as they are.
        together: Put all captions of an image into one batch, so that a CNN sees it once an epoch.
        weight_decay: Decoupled, AdamW's.
        clip: Largest norm of the gradient.
        accumulate: Parts a step's batch is cut into, one after the other, to hold less at a time; the processes of a
            distributed training share each of them.
        average: Share that the running average of the weights keeps a step, such as .999; dev is measured, and the
            best weights are taken, of the average. 0 for none.
        choose: What is best on dev: the lowest perplexity, or the highest CIDEr of captions by beam search.
        patience: Epochs without a better dev figure after which training stops.
        seed: Of initial weights, order and dropout.
        precision: `auto` computes in bfloat16 where the processor or GPU is fast at it.
    """

    epochs: int = 12
    batch: int = 150
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    warmup: float = 0.1
    encoder_rate: float = 0.1
    together: bool = False
    weight_decay: float = 0.0
    clip: float = 5.0
    accumulate: int = 1
    average: float = 0.0
    choose: Literal["perplexity", "cider"] = "perplexity"
    patience: int = 3
    seed: int = 0
    precision: Precision = "auto"
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self):
        for name in ("epochs", "batch", "learning_rate", "clip", "patience", "accumulate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"training.{name} is {getattr(self, name)}, but must be above 0")
        for name in ("encoder_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"training.{name} is {getattr(self, name)}, but must be 0 or more")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"training.seed is {self.seed}, but must be 0 or more and below 2 ** 32")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"training.warmup is {self.warmup}, but is a share between 0 and 1")
        if not 0 <= self.average < 1:
            raise ValueError(f"training.average is {self.average}, but must be 0 or more and below 1")
        if self.optimizer == "sgd" and self.weight_decay:
            raise ValueError("training.weight_decay is AdamW's; with SGD use training.objective.l2, the paper's lambda")


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
    fresh: bool = True,
    world: World = ALONE,
) -> Progress:
    """Train a model, or go on with a run that was stopped, and leave it with its best weights.

    Args:
        model: With fresh weights (drawn after `torch.manual_seed(config.seed)`), or those of a warm start.
        vocabulary: The model's.
        data: Training sentences and features.
        dev: Development sentences and features, which choose the weights.
        config: How to train.
        out: Folder for `checkpoint.safetensors` and `log.jsonl`.
        run: What else tells this run from others (recipe, data, encoder).
        on_step: Called with every record of the log.
        fresh: Whether the features' mean and deviation and the output bias are to be taken from the data.
        world: The processes that train together, all of which call this with the same arguments.

    Raises:
        ValueError: The loss is not finite, `out` holds another run, or the processes do not see the same files.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    torch.manual_seed(config.seed)
    if fresh:
        model.fit_features(data.features.to(device))
        model.set_output_bias(log_frequencies(data, vocabulary).to(device))
    objective = Objective(config.objective, vocabulary, data, world).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.average)) if config.average else None
    measured: NeuralLanguageModel = model if average is None else average.module  # ty: ignore[invalid-assignment]
    trained = torch.nn.ModuleDict({"model": model, "objective": objective})
    if average is not None:
        trained["average"] = average
    optimizer = _optimizer(model, objective, config)
    told = _told({**(run or {}), "training": asdict(config), "model": model.describe(), "tokens": data.tokens})
    told = json.loads(json.dumps(told))  # as a checkpoint gives it back
    progress = Progress(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest())
    best: dict[str, Tensor] = {}
    checkpoint = out / "checkpoint.safetensors"
    if world.leads:
        remove_leftovers(out)
    if checkpoint.exists():
        progress, best = load_checkpoint(checkpoint, progress.run, trained, optimizer, told)
        progress.finished = _ended(config, progress)  # it may be asked for more epochs now
    if not world.agree(int(progress.run[:15], 16), progress.step):
        raise ValueError(
            f"{out}: the processes do not see the same data, features or checkpoint; "
            "--data, --out and --cache must lie where all machines find them"
        )
    world.share_weights(trained)
    log = _Log(out / "log.jsonl", progress.step, on_step, world.leads)
    steps_per_epoch = data.steps(config.batch, config.together)
    steps = config.epochs * steps_per_epoch
    features = data.features.to(device)
    dev_cider = _DevCIDEr(dev, vocabulary) if config.choose == "cider" else None
    while not progress.finished:
        world.draw_anew(config.seed, progress.epoch)
        model.train()
        meter = _Meter()
        batches = data.batches(
            vocabulary, config.batch, config.seed, progress.epoch, config.together, objective.sentence_weights
        )
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * learning_rate(config, progress.step, steps)
            optimizer.zero_grad(set_to_none=True)
            tokens = batch.tokens
            for part in batch.to(device).split(math.ceil(len(batch.images) / config.accumulate)):
                with autocast(config.precision, device):
                    cost = objective(model, part, features)
                # The mean over the step's tokens, a part at a time.
                (cost.total * (cost.tokens / tokens)).backward()
                meter.add(cost)
            world.add_gradients([*model.parameters(), *objective.parameters()])
            torch.nn.utils.clip_grad_norm_(trained.parameters(), config.clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(model)
            progress.step += 1
            if progress.step % LOG_EVERY == 0 or progress.step % steps_per_epoch == 0:
                means = meter.means(world)
                if not all(map(math.isfinite, means.values())):
                    raise _not_finite("loss", progress.step, progress.epoch + 1)
                log.write(
                    epoch=progress.epoch + 1,
                    step=progress.step,
                    steps=steps,
                    learning_rate=learning_rate(config, progress.step - 1, steps),
                    **means,
                )
                meter = _Meter()
        progress.epoch += 1
        model.eval()
        measured.eval()
        at_use = in_use(measured, dev)
        score = world.told(lambda at_use=at_use: dev_perplexity(at_use, vocabulary, dev))
        if not math.isfinite(score):
            raise _not_finite("dev perplexity", progress.step, progress.epoch)
        for name, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise _not_finite(f"weight {name}", progress.step, progress.epoch)
        assert world.agree_on_weights(trained), f"after step {progress.step} the processes hold other weights"
        figures = {"dev_perplexity": round(score, 4)}
        if dev_cider is not None:
            figures["dev_cider"] = round(world.told(lambda at_use=at_use: dev_cider(at_use)), 4)
        log.write(epoch=progress.epoch, step=progress.step, steps=steps, **figures)
        worth = -score if dev_cider is None else figures["dev_cider"]
        if worth > progress.best:
            progress.best, progress.best_perplexity, progress.best_epoch = worth, score, progress.epoch
            best = {name: tensor.detach().clone() for name, tensor in measured.state_dict().items()}
        progress.finished = _ended(config, progress)
        if world.leads:
            save_checkpoint(checkpoint, progress, trained, optimizer, best, told)
        world.wait()  # no process is ahead of what a restart would find
    model.load_state_dict(best)
    model.eval()
    return progress


def _told(identity: dict[str, Any], before: str = "") -> dict[str, Any]:
    """What tells a run from others, by the names of its options; how long it trains may change while it does."""
    found: dict[str, Any] = {}
    for key, value in identity.items():
        name = before + key
        if isinstance(value, dict):
            # The recipe's own are those that are trained with, beside its encoder and words.
            found |= _told(value, "" if name == "recipe" else f"{name}.")
        elif name not in ("training.epochs", "training.patience"):
            found[name] = value
    return found


def _ended(config: TrainingConfig, progress: Progress) -> bool:
    return progress.epoch >= config.epochs or progress.epoch - progress.best_epoch >= config.patience


def _not_finite(what: str, step: int, epoch: int) -> ValueError:
    return ValueError(
        f"the {what} is not finite at step {step} (epoch {epoch}): lower --training.learning-rate or --training.clip; "
        "the last good checkpoint, if an epoch gave one, is kept"
    )


class _Meter:
    """Sums of what a few steps cost, and their speed."""

    def __init__(self):
        self.clock, self.costs = time.perf_counter(), list[Cost]()

    def add(self, cost: Cost) -> None:
        self.costs.append(cost)

    def means(self, world: World) -> dict[str, float]:
        """Bits a token, the other terms a step, and tokens a second, over all ranks."""
        tokens, names = sum(cost.tokens for cost in self.costs), list(self.costs[0].terms)
        sums = [sum(float(cost.terms[name]) for cost in self.costs) for name in names]
        bits, *sums = world.add(sum(float(cost.bits) for cost in self.costs), *sums)
        means = {"bits": round(bits / tokens, 4)}
        for name, total in zip(names, sums, strict=True):
            means[name] = round(total / (len(self.costs) * world.size), 4)
        return {**means, "tokens_per_second": round(tokens / (time.perf_counter() - self.clock))}


def _optimizer(model: LanguageModel, objective: Objective, config: TrainingConfig) -> torch.optim.Optimizer:
    """Groups of parameters: biases are not decayed, as they hold the words' frequencies; the CNN has its own rate."""
    rates = {"model": 1.0, "encoder": config.encoder_rate}
    parts = [(rates[name], parameters) for name, parameters in model.parameter_groups()]
    for parameter in (p for share, parameters in parts if not share for p in parameters):
        parameter.requires_grad_(False)
    parts[0] = parts[0][0], [*parts[0][1], *objective.parameters()]
    groups = [
        {"params": some, "share": share, "weight_decay": config.weight_decay if decayed else 0.0}
        for share, parameters in parts
        if share
        for decayed in (True, False)
        if (some := [p for p in parameters if (p.ndim > 1) == decayed])
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.98), fused=True)


def in_use(model: LanguageModel, data: CaptionData) -> TorchRuntime:
    """A model at use on some data's features."""
    return TorchRuntime(model, model_name(model.config), tuple(data.features.shape[1:]))


def dev_perplexity(model: Runtime, vocabulary: Vocabulary, data: CaptionData) -> float:
    """Perplexity of all sentences together."""
    score = log_likelihood_of(model, vocabulary, data.sentences, data.images, data.features.numpy())
    return perplexity(math.fsum(score), data.tokens)


class _DevCIDEr:
    """CIDEr of the captions that beam search gives the dev images, in the model's own words."""

    def __init__(self, data: CaptionData, vocabulary: Vocabulary):
        several, place = references(data, vocabulary)
        self.cider, self.vocabulary = CIDEr(several), vocabulary
        self.rows, self.features = list(place.values()), data.features[list(place)].numpy()

    def __call__(self, model: Runtime) -> float:
        captions = generate(model, self.vocabulary, model.encode_image(self.features), GenerationConfig())
        ids = [[*self.vocabulary.encode(several[0].tokens), self.vocabulary.end] for several in captions]
        return sum(self.cider(row, one) for row, one in zip(self.rows, ids, strict=True)) / len(ids)


def _step(line: str) -> float:
    """The step of a record of the log; beyond all for what is none, such as a line cut by a kill."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class _Log:
    """`log.jsonl`, the lead's: a record a line; what lies after the checkpoint is cut off when a run goes on."""

    def __init__(self, path: Path, step: int, on_step: Callable[[dict[str, Any]], None], leads: bool):
        self._path, self._on_step, self._leads = path, on_step, leads
        if not leads:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, **record: Any) -> None:
        if not self._leads:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._on_step(record)
