"""Verbs about photos at hand: caption, rank, score."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from mrnn.cli.console import (
    Data,
    Device,
    FilesFrom,
    Images,
    Json,
    Null,
    Photos,
    PriorWeight,
    Tolerant,
    Usage,
    as_json,
    bar,
    open_model,
    photos_of,
    print_row,
    print_table,
    visible,
    warn,
    warn_guess,
    weight_of_prior,
)

if TYPE_CHECKING:
    from mrnn.corpora.table import Pair

SENTENCES_AT_ONCE = 20_000
SCORED_AT_ONCE = 2000


def caption(
    photos: Photos,
    /,
    model: str = "base",
    n: int = 1,
    beam: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    files_from: FilesFrom = "",
    null: Null = False,
    tolerant: Tolerant = False,
    json: Json = False,
    device: Device = None,
) -> int:
    """Write captions for photos, as lines of PHOTO, caption and confidence with tabs between them, in the order given.

    Confidence lies between 0 and 1: of captions with .7, seven in ten agree with what people say of the photo as well
    as half of people's own sentences do. Below .2 it is called a guess.

    Args:
        photos: Photos to caption, and folders of them.
        model: Bundled model, folder or hub name.
        n: Captions a photo.
        beam: Beams of the search; the model's own number if left out.
        sample: Draw captions instead of searching for the likeliest.
        temperature: Of sampling: 1 if left out, below is safer, above wilder.
        top_k: Sample among the k likeliest words.
        top_p: Sample among the likeliest words with this probability together.
        seed: Of sampling, 0 if left out; the second photo's is one more, and so on, bad photos left out.
        files_from: A file that names photos and folders, one a line; `-` for standard input.
        null: Names end with a zero byte, in what is read and in what is printed.
        tolerant: Of truncated photos take what there is.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    names = photos_of(photos, files_from, null)
    options: dict[str, Any] = {"n": n}
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    drawing = {key: value for key, value in drawing.items() if value is not None}
    if sample:
        if beam is not None:
            raise Usage("--beam and --sample exclude each other")
        options |= {"method": "sample", **drawing}
    elif drawing:
        raise Usage(f"--{next(iter(drawing)).replace('_', '-')} goes with --sample")
    elif beam is not None:
        options["beam"] = beam
    pipeline = open_model(model, device, tolerant=tolerant)
    try:
        pipeline.options(**options)
    except ValueError as error:
        raise Usage(str(error)) from None
    failed = 0
    with bar("captioning", len(names)) as advance:
        for described in pipeline.describe(names, **options):
            failed += described.error is not None
            if described.error is not None:
                warn(str(described.error))
            else:
                warn_guess(described)
            if json:
                print(as_json({"photo": described.photo, **described.as_dict()}), flush=True)
            else:
                for caption in described.captions:
                    print_row(described.photo, caption.text, _share(caption.confidence), null=null)
            advance(1)
    return 1 if failed else 0


def explain(
    photo: Annotated[Positional[Path], arg(metavar="PHOTO")],
    /,
    sentence: str | None = None,
    out: Annotated[Path | None, arg(metavar="PNG")] = None,
    data: Data = (),
    images: Images = (),
    model: str = "base",
    cache: Path | None = None,
    tolerant: Tolerant = False,
    json: Json = False,
    device: Device = None,
) -> int:
    """Show what each word of a caption rests on: bits of evidence, from which branch, and where in the photo.

    Prints a table: word, bits of evidence, and bits that the word, recurrent and image branch add.

    Args:
        photo: The photo.
        sentence: The caption to explain; the model's own if left out.
        out: Draw the photo, the words by their evidence, and a heat map a word into this picture.
        data: Training data, to show what was said of the photos most like this one.
        images: Folder of its photos, if they are not with it.
        model: Bundled model, folder or hub name.
        cache: Folder of the feature cache.
        tolerant: Of a truncated photo take what there is.
        json: Print JSON.
        device: Where to compute.
    """
    from mrnn.images import open_image

    pipeline = open_model(model, device, tolerant=tolerant)
    training = None
    if data:
        from mrnn.corpora import read_corpora
        from mrnn.encoders import FeatureCache
        from mrnn.encoders.splits import encode_split

        with bar("encoding training photos") as advance:
            known = encode_split(read_corpora(data, images), "train", FeatureCache(pipeline.encoder, cache), advance)
        training = known.features, [p.captions for p in known.photos]
    found = pipeline.explain(photo, sentence, training)
    if json:
        print(as_json({"photo": str(photo), **found.as_dict()}))
    else:
        print_table(
            ["word", "evidence", *(f"from {branch}" for branch in found.words[0].branches)],
            [[w.token, f"{w.evidence:.2f}", *(f"{bits:.2f}" for bits in w.branches.values())] for w in found.words],
        )
        for caption in found.support:
            print(visible(f"said of a like photo: {caption}"))
        if found.confidence is not None:
            print(f"confidence: {_share(found.confidence)}")
    if found.note:
        warn(f"{photo}: {found.note}")
    if out is not None:
        from mrnn.draw import draw_explanation

        draw_explanation(found, open_image(photo, 600, tolerant=tolerant), out)
    return 0


def rank(
    photos: Photos,
    /,
    sentences: Annotated[Path | None, arg(metavar="FILE")] = None,
    sentence: str | None = None,
    model: str = "base",
    top: int = 10,
    score: Literal["raw", "normalised", "per-token", "posterior"] | None = None,
    prior_weight: PriorWeight | None = None,
    files_from: FilesFrom = "",
    null: Null = False,
    tolerant: Tolerant = False,
    json: Json = False,
    device: Device = None,
) -> int:
    """Rank sentences for each photo, or photos for a sentence: lines of PHOTO, score, sentence, confidence.

    Args:
        photos: Photos, and folders of them.
        sentences: A text file with a sentence a line: ranked for each photo.
        sentence: One sentence: the photos are ranked for it.
        model: Bundled model, folder or hub name.
        top: How many to print.
        score: By default normalised for a photo's sentences, raw for a sentence's photos.
        prior_weight: How much of the sentence's own likelihood the normalised score takes off, from 0 to 2: less if
            what is said usually is to count too.
        files_from: A file that names photos and folders, one a line; `-` for standard input.
        null: Names end with a zero byte, in what is read and in what is printed.
        tolerant: Of truncated photos take what there is.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    if (sentences is None) == (sentence is None):
        raise Usage("give either --sentences FILE, to rank them for each photo, or --sentence, to rank the photos")
    if top < 1:
        raise Usage("--top must be 1 or more")
    if prior_weight is not None and score not in (None, "normalised"):
        raise Usage(f"--prior-weight goes with the normalised score, not with --score {score}")
    weight = weight_of_prior(prior_weight)
    from mrnn.encoders import pool_features
    from mrnn.tasks.retrieval import Query

    names = photos_of(photos, files_from, null)
    pipeline = open_model(model, device, tolerant=tolerant)
    lines, failed = _read_sentences(sentences, pipeline) if sentences is not None else ([sentence or ""], 0)
    if not lines:
        raise ValueError(f"{sentences}: holds no sentence")
    with bar("encoding photos", len(names)) as advance:
        features, positions, errors = pool_features(pipeline.encoder, names)
        advance(len(names))
    for error in errors:
        warn(str(error))
    image = pipeline.model.encode_image(features)
    query: Query = "image" if sentence is None else "sentence"
    if positions:
        # Pools of any size: sentences in parts, of which each photo keeps the best.
        best: list[list[tuple[float, int]]] = [[] for _ in range(len(positions) if query == "image" else 1)]
        for start in range(0, len(lines), SENTENCES_AT_ONCE):
            found = pipeline.retriever(features, lines[start : start + SENTENCES_AT_ONCE], prior_weight=weight)
            for kept, matches in zip(best, found.matches(query, top, score, _shortlist(top, query)), strict=True):
                kept += [(match.score, start + match.index) for match in matches]
                kept.sort(key=lambda pair: -pair[0])
                del kept[top:]
        for i, kept in enumerate(best):
            shown = [(i, lines[j]) if query == "image" else (j, lines[0]) for _, j in kept]
            owners = image[[of for of, _ in shown]]
            sure = pipeline.confidences(owners, pipeline.sentence_ids([text for _, text in shown]))
            for (value, _), (of, text), share in zip(kept, shown, sure, strict=True):
                photo = names[positions[of]]
                if json:
                    print(as_json({"photo": photo, "score": value, "sentence": text, "confidence": share}))
                else:
                    print_row(photo, f"{value:.2f}", text, _share(share), null=null)
    return 1 if errors or failed else 0


def _share(confidence: float | None) -> str:
    """A confidence as people read it; empty if it is not known."""
    return "" if confidence is None else f"{confidence:.2f}"


def _shortlist(top: int, query: Literal["image", "sentence"]) -> int | None:
    """An image's sentences are many and shortlisted; a sentence's photos cost one softmax each."""
    return max(10 * top, 200) if query == "image" else None


def _read_sentences(path: Path, pipeline) -> tuple[list[str], int]:
    """The sentences of a file, and how many lines had to be left out; blank lines are passed over."""
    from mrnn.files import read_text
    from mrnn.text import tokenise

    lines, failed = [], 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        tokens = tokenise(line)
        if tokens:
            lines.append(line.strip())
            if all(token not in pipeline.vocabulary for token in tokens):
                warn(f"{path} line {number}: none of its words is known to the model, so its score says little")
        elif line.strip():
            warn(f"left out {path} line {number}: it has no word")
            failed += 1
    return lines, failed


def score(
    pairs: Annotated[Path | None, arg(metavar="TABLE")] = None,
    model: str = "base",
    prior_weight: PriorWeight | None = None,
    json: Json = False,
    device: Device = None,
) -> int:
    """How well each caption of a table fits its photo: a reference-free score, low for wrong captions.

    Prints a table: image, caption, log-likelihood in nats, the same less the sentence prior, both in bits a word, and
    the confidence that the model has in the caption.
    Of a table with a column `foil`, how often the caption scores above its foil; of one with columns `rating`,
    `rating_1` and so on, how the scores agree with them (Kendall's tau): at several weights of the prior, and blind, by
    the sentence alone.

    Args:
        pairs: CSV, TSV, JSON, JSONL or Parquet with an image and a caption column; photos relative to its folder.
        model: Bundled model, folder or hub name.
        prior_weight: Of the normalised score, 1 if left out; of foils and ratings only this one.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    if pairs is None:
        raise Usage("say where the table is: --pairs TABLE")
    weight = weight_of_prior(prior_weight)
    from mrnn.corpora.table import read_pairs
    from mrnn.encoders import pool_features
    from mrnn.text import tokenise

    rows, broken = read_pairs(pairs)
    for where in broken:
        warn(f"left out {where}: it has no photo, no caption, or a rating that is no number")
    wordless = {text for row in rows for text in (row.caption, row.foil) if text and not tokenise(text)}
    for text in wordless:
        warn(f"left out {text!r}: it has no word")
    rows = [row for row in rows if not wordless & {row.caption, row.foil}]
    pipeline = open_model(model, device)
    names = list(dict.fromkeys(str(row.path) for row in rows))
    features, positions, errors = pool_features(pipeline.encoder, names)
    for error in errors:
        warn(f"left out {error}")
    place = {names[position]: i for i, position in enumerate(positions)}
    usable = [row for row in rows if str(row.path) in place]
    judged = any(row.foil or row.ratings for row in usable)
    if not json and not judged:
        print("image\tcaption\traw\tnormalised\traw bits a word\tnormalised bits a word\tconfidence")
    scored: list[dict[str, float | None]] = []
    foils = [row for row in usable if row.foil]
    texts = [(row, row.caption) for row in usable] + [(row, row.foil) for row in foils]
    with bar("scoring", len(texts)) as advance:
        for start in range(0, len(texts), SCORED_AT_ONCE):
            some = texts[start : start + SCORED_AT_ONCE]
            owner = [place[str(row.path)] for row, _ in some]
            results = pipeline.score_pairs(features, owner, [text for _, text in some], weight)
            if judged:
                scored += results
            else:
                _print_scored(some, results, json)
            advance(len(some))
    if judged:
        _print_judged(usable, foils, scored, prior_weight, json)
    return 1 if errors or broken or wordless else 0


def _print_scored(
    texts: "Sequence[tuple[Pair, str]]", results: "Sequence[dict[str, float | None]]", json: bool
) -> None:
    """A line a caption."""
    for (row, text), fields in zip(texts, results, strict=True):
        if json:
            print(as_json({"image": row.image, "caption": text, **fields}))
        else:
            order = ("raw", "normalised", "raw_bits", "normalised_bits")
            numbers = ["" if (v := fields[key]) is None else f"{v:.3f}" for key in order]
            print_row(row.image, text, *numbers, _share(fields["confidence"]))


def _print_judged(
    rows: "Sequence[Pair]",
    foils: "Sequence[Pair]",
    scored: list[dict[str, float | None]],
    prior_weight: float | None,
    json: bool,
) -> None:
    """Figures of captions against foils, and against ratings; the scores are those of all rows, then of the foils."""
    import numpy as np

    from mrnn.evaluation.pairs import TAUS, WEIGHTS, foil_accuracy, rating_agreement, weighed

    if any(fields["prior"] is None for fields in scored):
        raise ValueError("the model has no reference images, so it cannot tell a sentence's prior")
    raw, prior = (np.array([fields[key] for fields in scored], np.float64) for key in ("raw", "prior"))
    scores = weighed(raw, prior, WEIGHTS if prior_weight is None else (prior_weight,))
    n = len(rows)
    figures: dict[str, Any] = {}
    if foils:
        own = [i for i, row in enumerate(rows) if row.foil]
        kinds = {"all": np.arange(len(foils))}
        kinds |= {kind: np.array([i for i, r in enumerate(foils) if r.kind == kind]) for kind in _kinds(foils)}
        figures["accuracy"] = {
            kind: {"pairs": len(some)}
            | {name: foil_accuracy(s[:n][own][some], s[n:][some]) for name, s in scores.items()}
            for kind, some in kinds.items()
        }
    rated, agreed = [i for i, row in enumerate(rows) if row.ratings], {}
    if rated:
        ratings = [rows[i].ratings for i in rated]
        agreed = {name: rating_agreement(s[rated], ratings) for name, s in scores.items()}
        figures["ratings"] = {
            "captions": len(rated),
            "ratings": sum(map(len, ratings)),
            **{tau: {name: found[tau] for name, found in agreed.items()} for tau in TAUS},
        }
    if json:
        print(as_json(figures))
        return
    if foils:
        print("captions above their foils, percent, by the weight of the sentence prior; blind: by the prior alone")
        table = [
            [kind, f"{some['pairs']:,}", *(f"{100 * some[name]:.1f}" for name in scores)]
            for kind, some in figures["accuracy"].items()
        ]
        print_table(["foils", "pairs", *scores], table)
    if rated:
        print(f"Kendall's tau with {figures['ratings']['ratings']:,} ratings, by the weight of the sentence prior")
        table = [[tau, *(f"{100 * found[tau]:.1f}" for found in agreed.values())] for tau in TAUS]
        print_table(["", *scores], table)


def _kinds(foils: "Sequence[Pair]") -> list[str]:
    """The kinds of foils, where the table tells them apart."""
    found = list(dict.fromkeys(row.kind for row in foils))
    return found if len(found) > 1 else []
