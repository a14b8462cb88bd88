"""Sentences as a tree of their shared beginnings, so that each is computed once.

Captions begin alike ("a man in a red ..."): a third of the words of 5,000 captions repeat a prefix seen before.

Shapes: S sentences, P prefixes, E edges (a prefix and the word after it), M multimodal width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrnn.runtime import Runtime
from mrnn.shapes import Float, Int
from mrnn.text import Vocabulary


@dataclass(frozen=True)
class EncodedSentences:
    """The text side of S sentences.

    Args:
        text: (P, M), what the model says after each prefix; sorted so that edges of a prefix are neighbours.
        edge_prefix: (E,) the prefix of every edge, ascending.
        edge_token: (E,) the word after it, the end sign included.
        edges: Edges of all sentences one after the other, first word first.
        offsets: (S + 1,) where each sentence's edges begin, and the end of the last.
    """

    text: Float[np.ndarray, "P M"]
    edge_prefix: Int[np.ndarray, " E"]
    edge_token: Int[np.ndarray, " E"]
    edges: Int[np.ndarray, " T"]
    offsets: Int[np.ndarray, " S_plus_1"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> Int[np.ndarray, " S"]:
        """(S,) tokens of each sentence, the end sign included."""
        return np.diff(self.offsets)


def encode_sentences(model: Runtime, vocabulary: Vocabulary, sentences: Sequence[Sequence[int]]) -> EncodedSentences:
    """Read every prefix once, level by level.

    Args:
        model: Whose sentences.
        vocabulary: Its words.
        sentences: S sentences of ids without signs.
    """
    edge_of: dict[tuple[int, int], int] = {}  # (prefix, word) -> edge
    child_of: dict[tuple[int, int], int] = {}  # (prefix, word) -> the prefix that is one longer
    parents, words, levels = [0], [vocabulary.start], [[0]]
    edges, offsets = [], [0]
    for sentence in sentences:
        prefix = 0
        for depth, token in enumerate([*sentence, vocabulary.end], 1):
            key = prefix, token
            edges.append(edge_of.setdefault(key, len(edge_of)))
            if depth > len(sentence):
                break
            if key not in child_of:
                child_of[key] = len(parents)
                if depth == len(levels):
                    levels.append([])
                levels[depth].append(len(parents))
                parents.append(prefix)
                words.append(token)
            prefix = child_of[key]
        offsets.append(len(edges))
    parent, word = np.array(parents), np.array(words)
    place = np.empty_like(parent)  # of a prefix within its level
    text, state = None, model.begin(1)
    for level in map(np.array, levels):
        before = state if level[0] == 0 else model.select(state, place[parent[level]])
        part, state = model.text(word[level], before)
        if text is None:
            text = np.empty((len(parents), part.shape[1]), part.dtype)
        text[level] = part
        place[level] = np.arange(len(level))
    assert text is not None
    pairs = np.array(list(edge_of), np.int64).reshape(-1, 2)
    order = pairs[:, 0].argsort(kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return EncodedSentences(text, pairs[order, 0], pairs[order, 1], rank[np.array(edges, np.int64)], np.array(offsets))
