"""One file that holds everything a training run needs to go on bit for bit. Written atomically, never a pickle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mrnn.files import atomic_path, first_line


@dataclass
class Progress:
    """Where a run stands.

    Args:
        run: Fingerprint of recipe and data; a checkpoint of another run is refused.
        epoch: Epochs completed.
        step: Optimiser steps completed.
        best: The best dev figure so far, higher is better: CIDEr, or minus the perplexity.
        best_perplexity: Dev perplexity of the epoch that gave it.
        best_epoch: That epoch, counted from 1.
        finished: Whether the run has ended.
    """

    run: str
    epoch: int = 0
    step: int = 0
    best: float = float("-inf")
    best_perplexity: float = float("inf")
    best_epoch: int = 0
    finished: bool = False


def save_checkpoint(
    path: Path,
    progress: Progress,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    told: dict[str, Any],
) -> None:
    """Write weights, optimiser state, best weights and random state, and what tells the run from others."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    # clone: safetensors refuses tensors that share memory, as the best weights may with the model's.
    contiguous = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        # One entry, as the order of several would change from file to file.
        save_file(contiguous, temporary, {"progress": json.dumps({**asdict(progress), "told": told})})


def load_checkpoint(
    path: Path, run: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, told: dict[str, Any]
) -> tuple[Progress, dict[str, Tensor]]:
    """Put a run back where it stood.

    Args:
        path: Of the checkpoint.
        run: Fingerprint of the run that is asked for.
        model: That takes the weights.
        optimizer: That takes its state.
        told: What tells this run from others, by the names of options.

    Returns:
        The progress, and the best weights so far.

    Raises:
        ValueError: The file is damaged, or of a run with another recipe or data; the message says what differs.
    """
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads(file.metadata()["progress"])
            former = kept.pop("told", {})
            progress = Progress(**kept)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({error}); delete it to start again") from None
    if progress.run != run:
        names = [name for name in told.keys() | former.keys() if told.get(name) != former.get(name)] if former else []
        raise ValueError(
            f"{path}: belongs to a run that differs in {', '.join(sorted(names)) or 'recipe, data or encoder'}; "
            f"give another --out, with --start {path.parent} to go on from its model, or delete it"
        )
    try:
        return progress, _put_back(tensors, model, optimizer)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({first_line(error)}); delete it to start again") from None


def _put_back(
    tensors: dict[str, Tensor], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    optimizer_state: dict[int, dict[str, Any]] = {}
    for name, tensor in parts["optimizer"].items():
        i, _, key = name.partition(".")
        optimizer_state.setdefault(int(i), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
    torch.set_rng_state(parts["random"]["cpu"])
    if "cuda" in parts["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(parts["random"]["cuda"])
    return parts["best"]
