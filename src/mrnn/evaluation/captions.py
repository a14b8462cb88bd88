"""Caption metrics as the field computes them: BLEU by sacreBLEU, the others and the tokeniser by pycocoevalcap."""

import contextlib
import io
import os
import shutil
from collections.abc import Generator, Sequence
from typing import Any

from mrnn.text import tokenise


def caption_metrics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compare one caption a photo with its reference captions.

    Without Java, the tokens are our own, which moves the figures a little, and METEOR is left out.

    Args:
        hypotheses: A caption a photo.
        references: One reference or more a photo; the number may differ.

    Returns:
        `BLEU-1` to `BLEU-4` (cumulative, with brevity penalty: the usual figures), `precision-1` to
        `precision-4` (of n-grams of that one length, as in the tables of arXiv 1410.1090), `CIDEr`,
        `ROUGE-L`, `METEOR`, and of our own captions how many are `distinct` and how many `words` they use.

    Raises:
        ValueError: The extra `eval` is not installed, or there is nothing to compare.
    """
    try:
        import sacrebleu  # noqa: F401
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        raise ValueError("caption metrics need an extra: pip install 'mrnn[eval]'") from None
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError("every caption needs at least one reference, and there must be one caption at least")
    java = has_java()
    cut = penn_treebank if java else own_tokens
    results = dict(enumerate(cut([[h] for h in hypotheses])))
    truths = dict(enumerate(cut(references)))
    metrics = bleu([r[0] for r in results.values()], list(truths.values()))
    with contextlib.redirect_stdout(io.StringIO()):
        metrics["CIDEr"] = float(Cider().compute_score(truths, results)[0])
        metrics["ROUGE-L"] = float(Rouge().compute_score(truths, results)[0])
        if java:
            from pycocoevalcap.meteor.meteor import Meteor

            metrics["METEOR"] = float(Meteor().compute_score(truths, results)[0])
    metrics["distinct"] = float(len(set(hypotheses)))
    metrics["words"] = float(len({word for r in results.values() for word in r[0].split()}))
    return metrics


def has_java() -> bool:
    """Whether there is what the Penn Treebank tokeniser and METEOR run on."""
    return shutil.which("java") is not None


def penn_treebank(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """Lower-case Penn Treebank tokens joined by spaces, without punctuation; needs Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    keyed = {i: [{"caption": " ".join(s.split())} for s in several] for i, several in enumerate(sentences)}
    with _quiet():
        tokenised = PTBTokenizer().tokenize(keyed)
    return [tokenised[i] for i in range(len(sentences))]


def own_tokens(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """The tokens that models are trained on, joined by spaces."""
    return [[" ".join(tokenise(sentence)) for sentence in several] for several in sentences]


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without what Java programs print about their speed on stderr."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Corpus BLEU-1..4 and n-gram precisions of tokenised captions, both between 0 and 1."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams: list[Any] = [[refs[i] if i < len(refs) else None for refs in references] for i in range(most)]
    metrics: dict[str, float] = {}
    for n in range(1, 5):
        score = BLEU(max_ngram_order=n, tokenize="none", smooth_method="none", force=True).corpus_score(
            hypotheses, streams
        )
        metrics[f"BLEU-{n}"] = score.score / 100
        metrics[f"precision-{n}"] = score.precisions[n - 1] / 100
    return dict(sorted(metrics.items()))
