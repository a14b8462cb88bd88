"""Captions to tokens to ids, and back.

A token is a word in lower case; punctuation is dropped, because the paper's sentences are made of words.
The English clitics ('s, 're, ...) are tokens of their own, so that "dog's" and the Penn Treebank style
"dog 's" of the Flickr8K file are the same two tokens. Scripts that are written without spaces are split into what is
read as one character: Han and Kana into their characters; Thai, Lao, Khmer and Burmese into a letter with its vowel
signs, tone marks and stacked letters. Every other script (accented Latin, Hangul, Arabic, ...) is split at its spaces.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mrnn.files import read_text, write_atomically

START, END, UNKNOWN = "<start>", "<end>", "<unknown>"
SIGNS = (START, END, UNKNOWN)

# Without the combining voice marks and the middle dot, which stand among the Kana.
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
_UNSPACED = rf"{_KANA}\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Thai, Lao, Burmese (three blocks), Khmer: letters, and what follows a letter and belongs to it.
_BLOCKS = "".join(map(chr, (*range(0xE00, 0xF00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800))))
_BLOCKS += "".join(map(chr, (*range(0xA9E0, 0xAA00), *range(0xAA60, 0xAA80))))
_AM = "\u0e33\u0eb3"  # Thai and Lao vowels that are letters to Unicode, but written over the letter before
_STACK = "\u1039\u17d2"  # the letter after it goes under the one before it
_BASE = "".join(c for c in _BLOCKS if unicodedata.category(c)[0] == "L" and c not in _AM)
_TAIL = _AM + "".join(c for c in _BLOCKS if unicodedata.category(c)[0] == "M")
_CLUSTER = rf"[{_BASE}](?:[{_STACK}][{_BASE}]|[\u200c\u200d]?[{_TAIL}])*"
_LETTER = rf"[^\W_{_UNSPACED}{_BASE}{_AM}]"
_PART = rf"(?:{_LETTER}|[{_TAIL}])"  # of a word; what belongs to a cluster has been taken by that
_CLITIC = rf"'(?:s|re|ve|d|ll|m)(?!{_PART})"
_TOKEN = re.compile(rf"[{_UNSPACED}]|{_CLUSTER}|{_CLITIC}|{_PART}+(?:(?!{_CLITIC})'{_PART}+)*")
_BEGINS = re.compile(f"[{_UNSPACED}{_BASE}]")
_ENDS = re.compile(rf"[{_UNSPACED}{_BASE}{_TAIL}](?<![{_STACK}])\Z")
_ELSEWHERE = re.compile(f"[^{_BLOCKS}]+")
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'" * 3)
_SOFT_HYPHEN = "\u00ad"
# Persian and Indic words hold these between their letters; emoji are joined by them too.
_JOINER = re.compile(rf"(?<={_LETTER})[\u200c\u200d](?={_LETTER})")


def tokenise(caption: str) -> list[str]:
    """Split a caption into lower-case words.

    Args:
        caption: One sentence in any script.

    Returns:
        Its tokens, without signs; empty if the caption has no word.
    """
    if caption.isascii():
        return _TOKEN.findall(caption.lower())
    text = _normalise(caption).lower().translate(_APOSTROPHES)
    text = _normalise(text.replace(_SOFT_HYPHEN, ""))
    # Combining marks (Arabic vowels, Devanagari signs) belong to their word but are no \w to Python:
    # the split is found with a letter standing in for each.
    shadow = _JOINER.sub("x", "".join("x" if unicodedata.category(c)[0] == "M" and c not in _TAIL else c for c in text))
    return [text[match.start() : match.end()] for match in _TOKEN.finditer(shadow)]


def _normalise(text: str) -> str:
    """Unicode's NFKC; NFC in the blocks of clusters, where NFKC takes letters apart that are written as one."""
    text = _ELSEWHERE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return unicodedata.normalize("NFC", text)


def detokenise(tokens: Iterable[str]) -> str:
    """Join tokens into a readable sentence; `tokenise` of the result gives the tokens back."""
    text = ""
    for token in tokens:
        joined = not text or token.startswith("'") or (_BEGINS.match(token) and _ENDS.search(text, len(text) - 1))
        text += token if joined else f" {token}"
    return text


class Vocabulary:
    """The words a model knows, in the order of their ids, with the signs for start, end and unknown words.

    Args:
        tokens: Every token once, the three signs among them; a token's position is its id.

    Raises:
        ValueError: A sign is missing or a token occurs twice.
    """

    def __init__(self, tokens: Sequence[str]):
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        for sign in SIGNS:
            if sign not in self._ids:
                raise ValueError(f"the vocabulary lacks the sign {sign}")
        if len(self._ids) != len(self.tokens):
            twice = next(token for token, n in Counter(self.tokens).items() if n > 1)
            raise ValueError(f"the vocabulary holds {twice!r} more than once")
        if (bad := next((t for t in self.tokens if t.split() != [t]), None)) is not None:
            raise ValueError(f"the vocabulary holds {bad!r}, which is not one word")
        self.start, self.end, self.unknown = (self._ids[sign] for sign in SIGNS)

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int = 5) -> "Vocabulary":
        """Collect the words seen `min_count` times or more, the most frequent first.

        Args:
            captions: Tokenised captions, of the training split alone.
            min_count: How often a word must occur to be known.

        Raises:
            ValueError: No word occurs that often.
        """
        counts = Counter(token for caption in captions for token in caption)
        known = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        if not known:
            raise ValueError(f"no word occurs {min_count} times or more in the training captions")
        return cls([*SIGNS, *known])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    __hash__ = None

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of the tokens, of the unknown sign for words not known; no start or end is added."""
        return [self._ids.get(token, self.unknown) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of the ids, without start and with nothing from the first end sign on."""
        tokens = []
        for i in ids:
            if i == self.end:
                break
            if i != self.start:
                tokens.append(self.tokens[i])
        return tokens

    def save(self, path: Path | str) -> None:
        """Write one token a line, in the order of the ids."""
        write_atomically(path, "".join(f"{token}\n" for token in self.tokens).encode())

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not UTF-8, or holds no well-formed vocabulary.
        """
        lines = read_text(path).splitlines()
        try:
            return cls(lines)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
