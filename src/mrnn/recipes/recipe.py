"""A recipe: everything that makes a model besides the data."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from mrnn.generation import GenerationConfig
from mrnn.models import ModelConfig, MRNNConfig
from mrnn.training import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a model besides the data.

    Args:
        encoder: Name of the encoder, as `load_encoder` takes it.
        min_count: How often a word must occur in the training captions to be known.
        mirror: Train on every photo's mirror image too, for captions that say neither left nor right.
        after: Recipe that is trained first, in the run's folder `start`, and gone on from, unless `start` is given. What
            is changed of this recipe is changed of that one too where the two are the same.
        start: Model whose weights training begins with: bundled, a folder or a hub name. Its words stay
            known and keep their vectors; new words, and layers of another size, begin afresh.
        model: Sizes and options.
        training: How to train.
        generation: How captions are searched for by default.
        references: Training photos, the same for every seed, whose image vectors the model carries for P(w).
    """

    encoder: str = "efficientnet_lite2"
    min_count: int = 5
    mirror: bool = False
    after: str = ""
    start: str = ""
    model: ModelConfig = field(default_factory=MRNNConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    references: int = 1000

    def __post_init__(self):
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}, but must be 1 or more")
        if self.generation.image_gain != 1 and not self.references:
            raise ValueError("generation.image_gain needs the mean training image, so references must be above 0")
        if self.references < 0:
            raise ValueError(f"references is {self.references}, but must be 0 or more")


def with_changes(earlier: Any, usual: Any, changed: Any) -> Any:
    """An earlier recipe with what was changed of a later one, where the two are the same by themselves.

    Args:
        earlier: The recipe to change, or a part of it.
        usual: The later one, or the same part of it.
        changed: The later one as it was asked for.
    """
    changes = {}
    for name in (option.name for option in fields(earlier)):
        if not hasattr(usual, name):  # models of two kinds share some of their options alone
            continue
        mine, theirs, asked = (getattr(recipe, name) for recipe in (earlier, usual, changed))
        if is_dataclass(mine):
            changes[name] = with_changes(mine, theirs, asked)
        elif mine == theirs:
            changes[name] = asked
    return replace(earlier, **changes)
