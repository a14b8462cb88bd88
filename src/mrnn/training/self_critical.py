"""Self-critical sequence training (Rennie et al. 2017, arXiv 1612.00563): raise the CIDEr of the model's own captions.

    gradient = - sum_k (r_k - mean of the other samples' r) d log P(w_k | I),   w_k drawn from P(. | I)

r is a caption's CIDEr against its image's references. Each sample is measured against the others of its image rather
than against greedy search (Luo 2020, arXiv 2003.09971).

Shapes: N images of a batch, K samples an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrnn.cider import CIDEr
from mrnn.models import LanguageModel, model_name
from mrnn.models.hand import TorchRuntime
from mrnn.shapes import Float
from mrnn.tasks.generation import draw
from mrnn.text import Vocabulary
from mrnn.training.batch import IGNORED, Batch, real_token_logits
from mrnn.training.data import CaptionData, references


class SelfCritical(nn.Module):
    """The term above.

    Args:
        vocabulary: The model's.
        data: Whose captions are the references.
        samples: K.
    """

    def __init__(self, vocabulary: Vocabulary, data: CaptionData, samples: int):
        super().__init__()
        self.vocabulary, self.views, self.samples = vocabulary, data.views, samples
        self.end = vocabulary.end
        several, self.row = references(data, vocabulary)
        self.cider = CIDEr(several)

    def forward(
        self, model: LanguageModel, rows: Sequence[int], features: Float[Tensor, "N ..."]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The cost whose gradient is the one above, a token, and the mean reward.

        Args:
            model: In training mode; samples are drawn in evaluation mode.
            rows: Of N images, in the data's features; the mean image, which has no references, earns nothing.
            features: Of these images.
        """
        known = [i for i, row in enumerate(rows) if row // self.views in self.row]
        if not known:  # nothing to learn from, but a cost like any other
            return features.new_zeros((), requires_grad=True), features.new_zeros(())
        rows, features = [rows[i] for i in known], features[known]
        at_use = TorchRuntime(model, model_name(model.config), tuple(features.shape[1:]))
        image = at_use.encode_image(features.cpu().numpy())
        # The draws come from PyTorch's own generator, whose state a checkpoint keeps.
        drawn = draw(at_use, self.vocabulary, image, self.samples, lambda n: torch.rand(n).numpy())
        model.train()
        # The end sign is a word of its own here, or captions would learn to stop in mid-sentence.
        rewards = torch.tensor(
            [
                [self.cider(self.row[row // self.views], [*s, self.end]) for s in several]
                for row, several in zip(rows, drawn, strict=True)
            ]
        )
        others = (rewards.sum(1, keepdim=True) - rewards) / (self.samples - 1)
        advantage = (rewards - others).flatten().to(features.device)
        sentences = [s for several in drawn for s in several]
        owner = [i for i in range(len(rows)) for _ in range(self.samples)]
        sampled = Batch.of(sentences, owner, self.vocabulary).to(features.device)
        logits, targets = real_token_logits(model, sampled, model.encode_image(features)[sampled.images])
        nats = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        of = (sampled.targets != IGNORED).nonzero()[:, 0]
        return (nats * advantage[of]).mean(), rewards.mean()
