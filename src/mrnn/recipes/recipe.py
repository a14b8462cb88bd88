"""A recipe: everything that makes a model besides the data."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mrnn.models import ModelConfig, MRNNConfig
from mrnn.networks import check_name
from mrnn.tasks.generation import GenerationConfig
from mrnn.training import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a model besides the data.

    Args:
        encoder: Name of the encoder, as `load_encoder` takes it; a model that trains a part of it takes its stem.
        min_count: How often a word must occur in the training captions to be known.
        mirror: Train on every photo's mirror image too, for captions that say neither left nor right.
        after: Recipe that is trained first, in the run's folder `start`, and gone on from, unless `start` is given.
            Encoder, words, sizes and seed, where changed, are changed of that one too.
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
        check_name(self.encoder)
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}, but must be 1 or more")
        if (self.generation.image_gain != 1 or self.generation.chooses) and not self.references:
            raise ValueError(
                "generation.image_gain, prior_weight and agreement need training images, so references must be above 0"
            )
        if self.references < 0:
            raise ValueError(f"references is {self.references}, but must be 0 or more")


def before(earlier: Recipe, usual: Recipe, asked: Recipe) -> Recipe:
    """The recipe that another comes after, with what was asked for of photos, words, sizes and seed.

    Args:
        earlier: As it is by itself.
        usual: The other one by itself: where the two differ, nothing is changed.
        asked: The other one as it was asked for.
    """

    def changed(mine: Any, theirs: Any, wanted: Any, names: Iterable[str]) -> Any:
        same = (n for n in names if hasattr(theirs, n) and getattr(theirs, n) == getattr(mine, n))
        return replace(mine, **{name: getattr(wanted, name) for name in same if hasattr(wanted, name)})

    options = [option.name for option in fields(earlier.model)]
    model = changed(earlier.model, usual.model, asked.model, options)
    training = changed(earlier.training, usual.training, asked.training, ("seed", "precision"))
    recipe = changed(earlier, usual, asked, ("encoder", "min_count", "mirror"))
    return replace(recipe, model=model, training=training)
