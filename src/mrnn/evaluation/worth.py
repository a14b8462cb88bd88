"""What the image is worth: bits a word that a model with the image saves over one without, by part of speech.

Shapes: S sentences.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

GROUPS = {
    "NN": "nouns",
    "VB": "verbs",
    "JJ": "adjectives",
    "CD": "numbers",
    "RB": "adverbs",
    "IN": "prepositions",
    "TO": "prepositions",
    "DT": "articles and determiners",
    "PR": "pronouns",
    "WP": "pronouns",
    "CC": "conjunctions",
}
END, OTHER = "end of the sentence", "other"


def parts_of_speech(sentence: Sequence[str]) -> list[str]:
    """The group of every word, by the tagger of TextBlob, which carries its own English lexicon.

    Raises:
        ValueError: TextBlob is not installed.
    """
    try:
        from textblob.en import parser
    except ImportError:
        raise ValueError("parts of speech need an extra: pip install 'mrnn[eval]'") from None
    return [GROUPS.get(tag[:2], OTHER) for _, tag in parser.find_tags(list(sentence))]


def image_worth(
    sentences: Sequence[Sequence[str]],
    with_image: Sequence[Sequence[float]],
    without: Sequence[Sequence[float]],
) -> dict[str, dict[str, float]]:
    """Compare two models word by word.

    Args:
        sentences: S sentences of words.
        with_image: For each the natural log-probabilities of its words and of the end sign.
        without: The same of a model that does not see the image.

    Returns:
        For `all` tokens and for every group `tokens`, the `bits` a token of the model with the image, those
        `without`, and what the image is worth, their difference.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for words, seen, blind in zip(sentences, with_image, without, strict=True):
        for group, a, b in zip([*parts_of_speech(words), END], seen, blind, strict=True):
            for name in ("all", group):
                for i, value in enumerate((1.0, -a / math.log(2), -b / math.log(2))):
                    sums[name][i] += value
    return {
        name: {"tokens": n, "bits": a / n, "without": b / n, "worth": (b - a) / n}
        for name, (n, a, b) in sorted(sums.items(), key=lambda item: -item[1][0])
    }
