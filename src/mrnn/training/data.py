"""Captions and features as training sees them: ids, in batches of like length.

Shapes: N images, S sentences, D feature width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrnn.shapes import Float
from mrnn.text import Vocabulary
from mrnn.training.batch import Batch


@dataclass(frozen=True)
class CaptionData:
    """Sentences of ids with their images' features.

    Args:
        sentences: S sentences without signs.
        images: For each sentence the row of its image.
        features: (N, D), or (N * views, D), the views of an image one after the other.
        views: Views an image.
        choices: For each sentence from how many of the first views an epoch draws one; all if None.
        without_image: How many of the last sentences have no image of their own.
    """

    sentences: Sequence[Sequence[int]]
    images: Sequence[int]
    features: Float[Tensor, "N ..."]
    views: int = 1
    choices: Sequence[int] | None = None
    without_image: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all sentences, end signs included."""
        return sum(len(sentence) + 1 for sentence in self.sentences)

    def with_text(self, sentences: Sequence[Sequence[int]]) -> "CaptionData":
        """The same with sentences that have no image: theirs is the mean of all, of which nothing can be told."""
        mean = self.features.mean(0, keepdim=True).expand(self.views, *self.features.shape[1:])
        none = len(self.features) // self.views
        choices = self.choices if self.choices is not None else [self.views] * len(self.sentences)
        return CaptionData(
            [*self.sentences, *sentences],
            [*self.images, *[none] * len(sentences)],
            torch.cat([self.features, mean]),
            self.views,
            [*choices, *[1] * len(sentences)],
            self.without_image + len(sentences),
        )

    def steps(self, size: int, together: bool = False) -> int:
        """Batches an epoch."""
        return len(self._together(size, torch.Generator())) if together else math.ceil(len(self.sentences) / size)

    def batches(
        self,
        vocabulary: Vocabulary,
        size: int,
        seed: int,
        epoch: int,
        together: bool = False,
        weights: Float[Tensor, " S"] | None = None,
    ) -> Iterator[Batch]:
        """Every sentence once, in batches of like length, in an order drawn from seed and epoch alone.

        Sentences are shuffled, cut into pools of 50 batches, sorted by length within a pool, and the batches
        are shuffled again: nearly no padding, nearly the variety of a full shuffle.

        Args:
            vocabulary: The model's.
            size: Sentences a batch.
            seed: Of the order.
            epoch: Of the order.
            together: Whether all sentences of an image, and all its draws of a view, are in one batch instead.
            weights: How much each sentence counts; all the same if None.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        batches = self._together(size, generator) if together else self._by_length(size, generator)
        choices = torch.tensor(self.choices if self.choices is not None else [self.views] * len(self.sentences))
        draws = torch.rand(len(choices), generator=generator)
        if together:  # one draw an image, that of its last sentence, so that it is encoded once
            draws = dict(zip(self.images, draws.tolist(), strict=True))
            draws = torch.tensor([draws[image] for image in self.images])
        drawn = (draws * choices).long()
        rows = (torch.tensor(self.images) * self.views + drawn).tolist()
        for i in torch.randperm(len(batches), generator=generator).tolist():
            some = batches[i]
            own = None if weights is None else weights[some]
            yield Batch.of([self.sentences[s] for s in some], [rows[s] for s in some], vocabulary, own)

    def _by_length(self, size: int, generator: torch.Generator) -> list[list[int]]:
        order = torch.randperm(len(self.sentences), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), 50 * size):
            pool = sorted(order[start : start + 50 * size], key=lambda i: len(self.sentences[i]))
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return batches

    def _together(self, size: int, generator: torch.Generator) -> list[list[int]]:
        of: dict[int, list[int]] = {}
        described = len(self.sentences) - self.without_image
        for sentence, image in enumerate(self.images[:described]):
            of.setdefault(image, []).append(sentence)
        images = list(of.values())
        if self.without_image:  # nothing keeps these together: as many as a photo has stand for one
            alone = [described + i for i in torch.randperm(self.without_image, generator=generator).tolist()]
            several = max(1, round(described / len(images)))
            images += [alone[i : i + several] for i in range(0, len(alone), several)]
        each = max(1, round(size * len(images) / len(self.sentences)))
        order = torch.randperm(len(images), generator=generator).tolist()
        return [[s for i in order[start : start + each] for s in images[i]] for start in range(0, len(order), each)]


def references(data: CaptionData, vocabulary: Vocabulary) -> tuple[list[list[list[int]]], dict[int, int]]:
    """The sentences of every image, each with its end sign, and for each image its place among them.

    Sentences without an image of their own are references of none.
    """
    place: dict[int, int] = {}
    several: list[list[list[int]]] = []
    described = len(data.sentences) - data.without_image
    for sentence, image in zip(data.sentences[:described], data.images[:described], strict=True):
        if image not in place:
            place[image] = len(several)
            several.append([])
        several[place[image]].append([*sentence, vocabulary.end])
    return several, place
