"""The models, one a file, readable beside their papers. A new one is added to `MODELS` and nowhere else."""

from dataclasses import fields
from typing import Any

from mrnn.models.base import Config, LanguageModel, NeuralLanguageModel, map_state
from mrnn.models.classes import ClassesConfig, MRNNClasses, class_words
from mrnn.models.lbl import LBL, LBLConfig
from mrnn.models.mlbl import MLBLB, MLBLF, MLBLBConfig, MLBLFConfig
from mrnn.models.mrnn import MRNN, MRNNConfig
from mrnn.models.ngram import NGram, NGramConfig
from mrnn.models.regions import MRNNRegions, RegionsConfig
from mrnn.models.rnn import RNN, RNNConfig
from mrnn.models.transformer import Transformer, TransformerConfig
from mrnn.models.tuned import TunedConfig, TunedMRNN

__all__ = [
    "LBL",
    "MLBLB",
    "MLBLF",
    "MODELS",
    "MRNN",
    "RNN",
    "ClassesConfig",
    "Config",
    "LBLConfig",
    "LanguageModel",
    "MLBLBConfig",
    "MLBLFConfig",
    "MRNNClasses",
    "MRNNConfig",
    "MRNNRegions",
    "ModelConfig",
    "NGram",
    "NGramConfig",
    "NeuralLanguageModel",
    "RNNConfig",
    "RegionsConfig",
    "Transformer",
    "TransformerConfig",
    "TunedConfig",
    "TunedMRNN",
    "build_model",
    "class_words",
    "map_state",
    "model_name",
]

MODELS: dict[str, type[LanguageModel]] = {
    "mrnn": MRNN,
    "mrnn-classes": MRNNClasses,
    "mrnn-regions": MRNNRegions,
    "mrnn-tuned": TunedMRNN,
    "transformer": Transformer,
    "rnn": RNN,
    "lbl": LBL,
    "mlbl-b": MLBLB,
    "mlbl-f": MLBLF,
    "ngram": NGram,
}
ModelConfig = (
    MRNNConfig | RegionsConfig | TransformerConfig | RNNConfig | LBLConfig | MLBLBConfig | MLBLFConfig | NGramConfig
)


def model_name(config: Any) -> str:
    """The registered name of the model that a configuration belongs to."""
    return next(name for name, model in MODELS.items() if model.Config is type(config))


def build_model(name: str, description: dict[str, Any]) -> LanguageModel:
    """A model with fresh weights from what `LanguageModel.describe` gave.

    Raises:
        ValueError: No such model, or the description is not one of its own.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}")
    model = MODELS[name]
    # JSON knows no tuples.
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in description.items()
    }
    try:
        vocabulary, features = options.pop("vocabulary"), options.pop("features")
        known = {field.name for field in fields(model.Config)}
        if unknown := sorted(set(options) - known):
            raise ValueError(f"{name} has no option {unknown[0]!r}")
        return model(model.Config(**options), vocabulary, features)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a description of a {name} model ({error})") from None
