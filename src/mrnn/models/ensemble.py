"""Several models as one: the mean of their log-probabilities, normalised again (a product of experts).

    P(w_{t+1} | w_1..t, I)  ~  exp( mean_e log P_e(w_{t+1} | w_1..t, I) )

Shapes: B batch, T time, N images, V vocabulary, M and F the members' widths together, D feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mrnn.models.base import LanguageModel, State


@dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble has no sizes of its own."""


class Ensemble(LanguageModel):
    """Members with one vocabulary and one encoder; those without regions take the whole photo of one that has them.

    Args:
        members: Two models or more.

    Raises:
        ValueError: They differ in the number of words or in the width of the features.
    """

    Config = EnsembleConfig

    def __init__(self, members: Sequence[LanguageModel]):
        first = members[0]
        for member in members:
            if (member.vocabulary, member.features) != (first.vocabulary, first.features):
                raise ValueError("the members of an ensemble need the same vocabulary and features of the same width")
        super().__init__(EnsembleConfig(), first.vocabulary, first.features)
        self._members = nn.ModuleList(members)
        # The members' features differ only in whether the regions are there.
        self.uses_regions = any(member.uses_regions for member in members)  # ty: ignore[invalid-attribute-access]
        self._text_widths: list[int] = []
        self._image_widths: list[int] = []

    @property
    def members(self) -> list[LanguageModel]:
        """The models."""
        return [member for member in self._members if isinstance(member, LanguageModel)]

    def encode_text(self, tokens: Int[Tensor, "B T"], state: State = None) -> tuple[Float[Tensor, "B T M"], State]:
        """The members' texts side by side, and their states."""
        states = (None,) * len(self.members) if state is None else state
        found = [member.encode_text(tokens, one) for member, one in zip(self.members, states, strict=True)]
        self._text_widths = [text.shape[-1] for text, _ in found]
        return torch.cat([text for text, _ in found], -1), tuple(after for _, after in found)

    def encode_image(self, features: Float[Tensor, "N ..."]) -> Float[Tensor, "N F"]:
        """The members' image vectors side by side."""
        found = [member.encode_image(_seen(member, features)) for member in self.members]
        self._image_widths = [image.shape[-1] for image in found]
        return torch.cat(found, -1)

    def encode_cells(self, features: Float[Tensor, "C ..."]) -> Float[Tensor, "C F"]:
        """The members' vectors of grid cells side by side."""
        return torch.cat([member.encode_cells(_seen(member, features)) for member in self.members], -1)

    def logits(self, text: Float[Tensor, "... M"], image: Float[Tensor, "... F"]) -> Float[Tensor, "... V"]:
        """The members' mean log-probability, normalised."""
        parts = zip(self.members, text.split(self._text_widths, -1), image.split(self._image_widths, -1), strict=True)
        found = [member.logits(t, i).float().log_softmax(-1) for member, t, i in parts]
        return torch.stack(found).mean(0).log_softmax(-1)


def _seen(member: LanguageModel, features: Tensor) -> Tensor:
    """The whole photo alone, of a photo and its regions, for a member that sees no regions."""
    return features[:, 0] if features.ndim == 3 and not member.uses_regions else features
