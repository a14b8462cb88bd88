"""What the project is attacked with: `python -m benchmarks.campaign [--minutes N] [--seed N]`."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What came of a part.

    Args:
        name: Of the part.
        tried: Inputs.
        escapes: What got through, a line each, with the place of the input.
    """

    name: str
    tried: int
    escapes: list[str] = field(default_factory=list)
