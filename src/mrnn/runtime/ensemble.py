"""Several models as one: the mean of their log-probabilities, normalised again (a product of experts).

    P(w_{t+1} | w_1..t, I)  ~  exp( mean_e log P_e(w_{t+1} | w_1..t, I) )

Shapes: as in `protocol.py`; M and F are the members' together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrnn.runtime.protocol import Array, Runtime, State, log_softmax
from mrnn.shapes import Float, Int


class Ensemble(Runtime):
    """Members with one vocabulary.

    Their features are one array if all take the same, where those that see no regions take the whole photo of one
    that has them; else each member's own, side by side.

    Args:
        members: Two models or more.
        shared: Whether they take the same features.

    Raises:
        ValueError: They differ in the number of words, or share features of which some have another width.
    """

    name = "ensemble"

    def __init__(self, members: Sequence[Runtime], shared: bool = True):
        self.members, self.shared = list(members), shared
        first = max(members, key=lambda member: member.uses_regions)
        if any(member.vocabulary != first.vocabulary for member in members):
            raise ValueError("the members of an ensemble need the same vocabulary")
        if shared and any(member.feature_shape[-1] != first.feature_shape[-1] for member in members):
            raise ValueError("the members of an ensemble need features of the same width")
        if not shared and any(len(member.feature_shape) != 1 for member in members):
            raise ValueError("members of different encoders need one vector a photo each")
        self.vocabulary = first.vocabulary
        self._widths = [member.feature_shape[0] for member in members]
        self.feature_shape = first.feature_shape if shared else (sum(self._widths),)
        self.uses_image = any(member.uses_image for member in members)
        self.uses_regions = shared and first.uses_regions
        self.image_width = sum(member.image_width for member in members)
        self._image_ends = np.cumsum([member.image_width for member in members])[:-1]
        # A member's part of the text is as wide as what it says of any word.
        said = [member.text(np.zeros(1, np.int64), member.begin(1))[0] for member in members]
        self._text_ends = np.cumsum([text.shape[1] for text in said])[:-1]

    @property
    def device(self) -> Any:
        """Of the members."""
        return self.members[0].device

    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """The members' image vectors side by side."""
        return np.concatenate([m.encode_image(f) for m, f in self._seen(features)], 1)

    def encode_cells(self, features: Float[Array, "C ..."]) -> Float[Array, "C F"]:
        """The members' vectors of grid cells side by side."""
        return np.concatenate([m.encode_cells(f) for m, f in self._seen(features)], 1)

    def begin(self, n: int) -> State:
        """The members' states."""
        return [member.begin(n) for member in self.members]

    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """Of every member."""
        return [member.select(one, rows) for member, one in zip(self.members, state, strict=True)]

    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B M"], State]:
        """The members' texts side by side, and their states."""
        found = [member.text(words, one) for member, one in zip(self.members, state, strict=True)]
        return np.concatenate([text for text, _ in found], 1), [after for _, after in found]

    def distribution(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R V"]:
        """The members' mean log-probability, normalised."""
        found = [member.distribution(t, i) for member, t, i in self._parts(text, image)]
        return log_softmax(np.mean(found, 0))

    def pull(
        self, text: Float[Array, "R M"], image: Float[Array, "R F"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R F"]:
        """Of every member, whose log-probabilities count one part in so many."""
        raised = raised / len(self.members)
        return np.concatenate([member.pull(t, i, raised) for member, t, i in self._parts(text, image)], 1)

    def _parts(self, text: Array, image: Array):
        texts, images = np.split(text, self._text_ends, 1), np.split(image, self._image_ends, 1)
        return zip(self.members, map(np.ascontiguousarray, texts), map(np.ascontiguousarray, images), strict=True)

    def _seen(self, features: Array) -> list[tuple[Runtime, Array]]:
        if not self.shared:
            parts = np.split(features, np.cumsum(self._widths)[:-1], 1)
            return list(zip(self.members, map(np.ascontiguousarray, parts), strict=True))
        whole = np.ascontiguousarray(features[:, 0]) if self.uses_regions else features
        return [(member, features if member.uses_regions else whole) for member in self.members]
