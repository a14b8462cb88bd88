"""N-gram models as ARPA files, the format of SRILM and KenLM: log10 probabilities and back-off weights as text."""

import math
from pathlib import Path

from mrnn.files import read_text, write_atomically
from mrnn.models.ngram import NGram, NGramConfig, Table
from mrnn.text import END, START, UNKNOWN, Vocabulary

_SIGNS = {START: "<s>", END: "</s>", UNKNOWN: "<unk>"}
_TOKENS = {sign: token for token, sign in _SIGNS.items()}
_LOG_10 = math.log(10)
_ZERO = -99.0  # by convention the logarithm of the start sign's probability, which is 0


def save_arpa(model: NGram, vocabulary: Vocabulary, path: Path | str) -> None:
    """Write a model."""
    words = [_SIGNS.get(token, token) for token in vocabulary.tokens]
    log_p, log_alpha = model.tables()
    log_p[0] = {(word,): log_p[0].get((word,), _ZERO * _LOG_10) for word in range(len(words))}
    lines = ["\\data\\", *(f"ngram {n}={len(table)}" for n, table in enumerate(log_p, 1)), ""]
    for n, table in enumerate(log_p, 1):
        lines.append(f"\\{n}-grams:")
        for gram, value in table.items():
            text = " ".join(words[word] for word in gram)
            line = f"{value / _LOG_10:.7f}\t{text}"
            if n < len(log_p) and gram[-1] != vocabulary.end:
                line += f"\t{log_alpha[n - 1][gram] / _LOG_10:.7f}"
            lines.append(line)
        lines.append("")
    write_atomically(path, "\n".join([*lines, "\\end\\", ""]).encode())


def load_arpa(path: Path | str) -> tuple[NGram, Vocabulary]:
    """Read a model; its unigrams are the vocabulary.

    Raises:
        ValueError: The file is cut short or no ARPA file; the message names the line.
    """
    path = Path(path)
    sizes: list[int] = []
    log_p: list[Table] = []
    log_alpha: list[Table] = []
    ids: dict[str, int] = {}
    order, ended, number = 0, False, 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        line = line.strip()
        if line == "\\end\\":
            ended = True
            break
        if not line or (line == "\\data\\" and not sizes):
            continue
        try:
            if line.startswith("ngram ") and not order:
                sizes.append(int(line.partition("=")[2]))
            elif line == f"\\{order + 1}-grams:" and order < len(sizes):
                order += 1
                log_p.append({})
                log_alpha.append({})
            else:
                parts = line.split()
                if not order or len(parts) not in (order + 1, order + 2):
                    raise ValueError
                if order == 1:
                    ids[parts[1]] = len(ids)
                gram = tuple(ids[word] for word in parts[1 : order + 1])
                log_p[-1][gram] = float(parts[0]) * _LOG_10
                log_alpha[-1][gram] = float(parts[order + 1]) * _LOG_10 if len(parts) == order + 2 else 0.0
        except (ValueError, KeyError):
            raise ValueError(f"{path}: line {number} is not ARPA: {line[:60]!r}") from None
    found = [len(table) for table in log_p]
    if not ended or not sizes or found != sizes:
        raise ValueError(
            f"{path}: cut short or no ARPA file: it holds {found} n-grams of each order, its head says {sizes}"
        )
    vocabulary = Vocabulary([_TOKENS.get(word, word) for word in ids])
    log_p[0].pop((vocabulary.start,), None)
    model = NGram(NGramConfig(order=order), len(vocabulary), 1)
    model.set_tables(log_p, log_alpha[: order - 1])
    return model.eval(), vocabulary
