"""What the project is attacked with: `python -m benchmarks.campaign [--minutes N] [--seed N]`."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """What a part of the campaign found.

    Args:
        name: Of the part.
        tried: Inputs.
        escapes: What should not have happened, a line each, with the input.
    """

    name: str
    tried: int = 0
    escapes: list[str] = field(default_factory=list)
