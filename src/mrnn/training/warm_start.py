"""Begin training from the weights of another model, whose vocabulary may be another: shared words keep their vectors.

Shapes: V vocabulary.
"""

import torch

from mrnn.models import NeuralLanguageModel
from mrnn.text import Vocabulary


@torch.no_grad()
def warm_start(
    model: NeuralLanguageModel, vocabulary: Vocabulary, start: NeuralLanguageModel, words: Vocabulary
) -> list[str]:
    """Copy what two models have in common; what `start` lacks keeps its fresh weights.

    Args:
        model: To be trained.
        vocabulary: Its words.
        start: Trained before.
        words: The words of `start`.

    Returns:
        Names of the tensors that `start` lacks, or has in another shape.

    Raises:
        ValueError: They have nothing in common.
    """
    old, fresh = start.state_dict(), []
    at = {token: i for i, token in enumerate(words.tokens)}
    shared = [(i, at[token]) for i, token in enumerate(vocabulary.tokens) if token in at]
    here, there = torch.tensor(shared).unbind(1)
    for name, tensor in model.state_dict().items():
        source = old.get(name)
        if source is None or tensor.shape[1:] != source.shape[1:]:
            fresh.append(name)
        elif tensor.ndim and (len(tensor), len(source)) == (len(vocabulary), len(words)):
            tensor[here] = source[there].to(tensor)
        elif tensor.shape == source.shape:
            tensor.copy_(source)
        else:
            fresh.append(name)
    if len(fresh) == len(model.state_dict()):
        raise ValueError("the model to start from has no layer of the size of one of this model's")
    return fresh
