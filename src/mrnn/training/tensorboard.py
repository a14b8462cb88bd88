"""The log's numbers for TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def with_tensorboard(out: Path, on_step: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Send the log's numbers to TensorBoard too, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return on_step
    writer = SummaryWriter(str(out / "tensorboard"))

    def both(record: dict[str, Any]) -> None:
        on_step(record)
        for key in ("bits", "learning_rate", "tokens_per_second", "dev_perplexity"):
            if key in record:
                writer.add_scalar(key, record[key], record["step"])
        if "dev_perplexity" in record:
            writer.flush()

    return both
