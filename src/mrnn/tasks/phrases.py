"""Phrases: how well a few words fit an image wherever a caption may have them.

    score(w, I) = mean_k log P(w | c_k, I)

"a dog" is hardly ever a whole caption: log P(w | I) asks whether an image is one of which no more can be said. So a
phrase is scored behind K beginnings c_k of captions, and neither these count nor the end. They are beginnings of what
the model says of reference images, those behind which the phrase is likeliest at the mean reference image.

Shapes: S phrases, K beginnings that score a phrase, B all beginnings, R reference images, F width of an image vector, M
multimodal width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mrnn.runtime import Runtime
from mrnn.shapes import Float
from mrnn.tasks.choice import spread
from mrnn.tasks.retrieval import (
    EncodedSentences,
    FirstOrder,
    encode_sentences,
    fast_sentence_prior,
    first_order,
    pair_log_likelihood,
)
from mrnn.text import Vocabulary

WORDS = 3  # up to which what is searched for is a phrase
BEGINNINGS = 12
_LIKELY = 48  # beginnings behind which the first word is likeliest
_IMAGES, _SENTENCES = 6, 2  # reference images of which something is said, and how much of each


@dataclass(frozen=True)
class Beginnings:
    """Beginnings of captions.

    Args:
        words: Ids of B beginnings, the empty one among them.
        text: (B, M), what the model says after each.
    """

    words: list[tuple[int, ...]]
    text: Float[np.ndarray, "B M"]


def say(model: Runtime, vocabulary: Vocabulary, references: Float[np.ndarray, "R F"]) -> list[list[int]]:
    """Sentences whose beginnings phrases are scored behind.

    Args:
        model: Who says them.
        vocabulary: Its words.
        references: Image vectors of training photos.
    """
    some = references[np.linspace(0, len(references) - 1, min(_IMAGES, len(references))).astype(int)]
    return [sentence for several in spread(model, vocabulary, some, _SENTENCES) for sentence in several]


def beginnings(model: Runtime, vocabulary: Vocabulary, said: Sequence[Sequence[int]]) -> Beginnings:
    """What captions begin with.

    Args:
        model: Who reads them.
        vocabulary: Its words.
        said: What `say` gave.
    """
    words = sorted({tuple(sentence[:i]) for sentence in said for i in range(len(sentence) + 1)})
    encoded = encode_sentences(model, vocabulary, words)
    # The end stands behind a whole beginning.
    return Beginnings(words, encoded.text[encoded.edge_prefix[encoded.edges[encoded.offsets[1:] - 1]]])


def encode_phrases(
    model: Runtime,
    vocabulary: Vocabulary,
    phrases: Sequence[Sequence[int]],
    centre: Float[np.ndarray, " F"],
    begun: Beginnings,
) -> EncodedSentences:
    """The text side of S phrases: what scores sentences scores them, K times as high as above.

    Args:
        model: Who scores.
        vocabulary: Its words.
        phrases: S phrases of ids without signs.
        centre: The mean reference image's vector.
        begun: What `beginnings` gave.
    """
    rows = np.arange(len(begun.words))
    usual = np.tile(centre, (len(rows), 1))
    before = []
    for phrase in phrases:
        first = model.log_p(begun.text, usual, rows, np.full(len(rows), phrase[0]), "auto")
        before.append([begun.words[i] for i in np.argsort(-first, kind="stable")[:_LIKELY]])
    whole = [(*words, *phrase) for phrase, several in zip(phrases, before, strict=True) for words in several]
    encoded = encode_sentences(model, vocabulary, whole)
    starts = encoded.offsets[:-1] + [len(words) for several in before for words in several]
    lengths = np.repeat([len(phrase) for phrase in phrases], len(before[0]))
    pairs = np.stack([np.zeros(len(whole), np.int64), np.arange(len(whole))], 1)
    likelihoods = pair_log_likelihood(model, _part(encoded, starts, lengths), centre[None], pairs, "auto")
    likelihoods = likelihoods.reshape(len(phrases), -1)
    k = min(BEGINNINGS, likelihoods.shape[1])
    best = np.argsort(-likelihoods, 1, kind="stable")[:, :k]
    best = (best + likelihoods.shape[1] * np.arange(len(phrases))[:, None]).ravel()
    chosen = _part(encoded, starts[best], lengths[best])
    return EncodedSentences(chosen.text, chosen.edge_prefix, chosen.edge_token, chosen.edges, chosen.offsets[::k])


def _part(encoded: EncodedSentences, starts: np.ndarray, lengths: np.ndarray) -> EncodedSentences:
    """Some words of each sentence, and what comes before them as far as it is read."""
    offsets = np.concatenate([[0], lengths.cumsum()])
    places = np.arange(offsets[-1]) - offsets[:-1].repeat(lengths) + starts.repeat(lengths)
    used, edges = np.unique(encoded.edges[places], return_inverse=True)
    prefixes, edge_prefix = np.unique(encoded.edge_prefix[used], return_inverse=True)
    return EncodedSentences(encoded.text[prefixes], edge_prefix, encoded.edge_token[used], edges, offsets)


class Asked:
    """Words that images are searched for by: a phrase if they are few and there are beginnings, else a sentence.

    Args:
        model: Who scores.
        vocabulary: Its words.
        ids: Of the words, without signs.
        centre: The mean of the images' vectors, b0.
        begun: Asked for beginnings, if they are needed; None without reference images.
    """

    def __init__(
        self,
        model: Runtime,
        vocabulary: Vocabulary,
        ids: Sequence[int],
        centre: Float[np.ndarray, " F"],
        begun: Callable[[], Beginnings] | None,
    ):
        self.model = model
        if begun is not None and len(ids) <= WORDS:
            self.encoded = encode_phrases(model, vocabulary, [ids], centre, begun())
            self.share = len(ids) / int(self.encoded.tokens[0])
        else:
            self.encoded, self.share = encode_sentences(model, vocabulary, [ids]), 1.0
        first = first_order(model, vocabulary, [ids], centre, encoded=self.encoded)
        self.first = FirstOrder(first.constant * np.float32(self.share), first.vectors * np.float32(self.share))

    def exact(self, image: Float[np.ndarray, "N F"]) -> Float[np.ndarray, " N"]:
        """How well the words fit each of N images, in nats."""
        pairs = np.stack([np.arange(len(image)), np.zeros(len(image), np.int64)], 1)
        return pair_log_likelihood(self.model, self.encoded, image, pairs, "auto") * np.float32(self.share)

    def prior(self, references: Float[np.ndarray, "R F"]) -> float:
        """The same of any image: the log of the mean over reference images."""
        given = self.model, self.encoded, references, self.first
        return float(fast_sentence_prior(*given, precision="auto", share=self.share)[0])
