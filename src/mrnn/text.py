"""Captions to tokens to ids, and back.

A token is a word in lower case; punctuation is dropped, because the paper's sentences are made of words.
The English clitics ('s, 're, ...) are tokens of their own, so that "dog's" and the Penn Treebank style
"dog 's" of the Flickr8K file are the same two tokens. Han and Kana characters, which are written without
spaces, are one token each; every other script (accented Latin, Hangul, Arabic, ...) is split at its spaces.
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
_LETTER = rf"[^\W_{_UNSPACED}]"
_CLITIC = rf"'(?:s|re|ve|d|ll|m)(?!{_LETTER})"
_TOKEN = re.compile(rf"[{_UNSPACED}]|{_CLITIC}|{_LETTER}+(?:(?!{_CLITIC})'{_LETTER}+)*")
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
    text = unicodedata.normalize("NFKC", caption).lower().translate(_APOSTROPHES)
    if text.isascii():
        return _TOKEN.findall(text)
    text = unicodedata.normalize("NFKC", text.replace(_SOFT_HYPHEN, ""))
    # Combining marks (Arabic vowels, Devanagari signs) belong to their word but are no \w to Python:
    # the split is found with a letter standing in for each.
    shadow = _JOINER.sub("x", "".join("x" if unicodedata.category(c)[0] == "M" else c for c in text))
    return [text[match.start() : match.end()] for match in _TOKEN.finditer(shadow)]


def detokenise(tokens: Iterable[str]) -> str:
    """Join tokens into a readable sentence; `tokenise` of the result gives the tokens back."""
    text = ""
    for token in tokens:
        joined = not text or token.startswith("'") or (_unspaced(token) and _unspaced(text))
        text += token if joined else f" {token}"
    return text


def _unspaced(text: str) -> bool:
    return re.match(f"[{_UNSPACED}]", text[-1]) is not None


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
