"""Every registered model at a tiny size, with random weights, and sentences and photos for it."""

from dataclasses import fields

import torch

from mrnn.models import MODELS, NGram
from mrnn.text import SIGNS, Vocabulary

V, D = 23, 7
VOCABULARY = Vocabulary([*SIGNS, *(f"w{i}" for i in range(V - 3))])


def make(name: str, **options):
    torch.manual_seed(0)
    model_class = MODELS[name]
    sizes = {"embedding": 6, "word": 8, "recurrent": 8, "multimodal": 10, "context": 3, "factors": 9}
    sizes |= {"width": 8, "heads": 2, "layers": 2, "attention": 5}
    known = {field.name for field in fields(model_class.Config)}
    model = model_class(model_class.Config(**{k: v for k, v in {**sizes, **options}.items() if k in known}), V, D)
    if isinstance(model, NGram):
        model.count(many_sentences(), VOCABULARY)
    for buffer in (b for n, b in model.named_buffers() if n == "feature_mean"):
        buffer.uniform_(-1, 1)
    return model.eval()


def many_sentences(n=400, vocabulary=V):
    """Sentences of words whose frequencies fall as in language, so that every count of counts occurs."""
    generator = torch.Generator().manual_seed(5)
    weights = 1 / torch.arange(1, vocabulary - 2).float() ** 1.2
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [(torch.multinomial(weights, k, True, generator=generator) + 3).tolist() for k in lengths]


def sentences(batch=4, length=6):
    return torch.randint(0, V, (batch, length), generator=torch.Generator().manual_seed(1))


def photos(n=4, name="mrnn"):
    shape = (n, 4, D) if MODELS[name].uses_regions else (n, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))
