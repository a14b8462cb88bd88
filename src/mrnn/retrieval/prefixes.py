"""Sentences as a tree of their shared beginnings, so that each is computed once.

Captions begin alike ("a man in a red ..."): a third of the words of 5,000 captions repeat a prefix seen before.

Shapes: S sentences, P prefixes, E edges (a prefix and the word after it), M multimodal width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mrnn.models import LanguageModel, map_state
from mrnn.text import Vocabulary


@dataclass(frozen=True)
class EncodedSentences:
    """The text side of S sentences.

    Args:
        text: (P, M), what `encode_text` says after each prefix; sorted so that edges of a prefix are neighbours.
        edge_prefix: (E,) the prefix of every edge, ascending.
        edge_token: (E,) the word after it, the end sign included.
        edges: Edges of all sentences one after the other, first word first.
        offsets: (S + 1,) where each sentence's edges begin, and the end of the last.
    """

    text: Float[Tensor, "P M"]
    edge_prefix: Int[Tensor, " E"]
    edge_token: Int[Tensor, " E"]
    edges: Int[Tensor, " T"]
    offsets: Int[Tensor, " S_plus_1"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> Int[Tensor, " S"]:
        """(S,) tokens of each sentence, the end sign included."""
        return self.offsets.diff()


@torch.inference_mode()
def encode_sentences(
    model: LanguageModel, vocabulary: Vocabulary, sentences: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> EncodedSentences:
    """Run `encode_text` once a prefix, level by level.

    Args:
        model: In evaluation mode.
        vocabulary: The model's.
        sentences: S sentences of ids without signs.
        device: Where the model is.
    """
    edge_of: dict[tuple[int, int], int] = {}  # (prefix, word) -> edge
    child_of: dict[tuple[int, int], int] = {}  # (prefix, word) -> the prefix that is one longer
    parents, words, levels = [0], [vocabulary.start], [[0]]
    edges, offsets = [], [0]
    for sentence in sentences:
        prefix = 0
        for depth, token in enumerate([*sentence, vocabulary.end], 1):
            key = (prefix, token)
            edges.append(edge_of.setdefault(key, len(edge_of)))
            if token == vocabulary.end:
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
    parent, word = torch.tensor(parents, device=device), torch.tensor(words, device=device)
    place = torch.empty_like(parent)  # of a prefix within its level
    parts, state = [], None
    for level in (torch.tensor(level, device=device) for level in levels):
        before = map_state(lambda s, rows=place[parent[level]]: s.index_select(0, rows), state)
        part, state = model.encode_text(word[level][:, None], before)
        parts.append(part[:, 0])
        place[level] = torch.arange(len(level), device=device)
    text = torch.empty_like(torch.cat(parts))
    text[torch.tensor([prefix for level in levels for prefix in level], device=device)] = torch.cat(parts)
    pairs = torch.tensor(list(edge_of), dtype=torch.long, device=device).view(-1, 2)
    order = pairs[:, 0].argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=device)
    return EncodedSentences(
        text,
        pairs[order, 0],
        pairs[order, 1],
        rank[torch.tensor(edges, dtype=torch.long, device=device)],
        torch.tensor(offsets, device=device),
    )
