"""Verbs about photos at hand: caption, rank, score."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from mrnn.cli.console import (
    Data,
    Device,
    FilesFrom,
    Images,
    Json,
    Null,
    Photos,
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
)

SENTENCES_AT_ONCE = 20_000


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
    device: Device = "auto",
) -> int:
    """Write captions for photos, as lines of PHOTO, a tab, and the caption, in the order given.

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
                    print_row(described.photo, caption.text, null=null)
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
    device: Device = "auto",
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
    from mrnn.tasks.familiarity import GUESS

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
    if not found.familiar:
        warn(f"{photo}: {GUESS}")
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
    files_from: FilesFrom = "",
    null: Null = False,
    tolerant: Tolerant = False,
    json: Json = False,
    device: Device = "auto",
) -> int:
    """Rank sentences for each photo, or photos for a sentence, by likelihood; lines of PHOTO, score, sentence.

    Args:
        photos: Photos, and folders of them.
        sentences: A text file with a sentence a line: ranked for each photo.
        sentence: One sentence: the photos are ranked for it.
        model: Bundled model, folder or hub name.
        top: How many to print.
        score: By default normalised for a photo's sentences, raw for a sentence's photos.
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
    familiar = _familiar(pipeline, features, [names[i] for i in positions])
    query: Query = "image" if sentence is None else "sentence"
    if positions:
        # Pools of any size: sentences in parts, of which each photo keeps the best.
        best: list[list[tuple[float, int]]] = [[] for _ in range(len(positions) if query == "image" else 1)]
        for start in range(0, len(lines), SENTENCES_AT_ONCE):
            found = pipeline.retriever(features, lines[start : start + SENTENCES_AT_ONCE])
            for kept, matches in zip(best, found.matches(query, top, score, _shortlist(top, query)), strict=True):
                kept += [(match.score, start + match.index) for match in matches]
                kept.sort(key=lambda pair: -pair[0])
                del kept[top:]
        for i, kept in enumerate(best):
            for value, j in kept:
                of, text = (i, lines[j]) if query == "image" else (j, lines[0])
                photo = names[positions[of]]
                if json:
                    fields = {"photo": photo, "score": value, "sentence": text}
                    print(as_json({**fields, "familiar": familiar[of]}))
                else:
                    print_row(photo, f"{value:.2f}", text, null=null)
    return 1 if errors or failed else 0


def _familiar(pipeline, features, names: list[str]) -> list[bool]:
    """Which photos are like those the model was trained on; the others are named."""
    from mrnn.tasks.familiarity import GUESS

    familiar = [not guess for guess in pipeline.unfamiliar(features)]
    for name, known in zip(names, familiar, strict=True):
        if not known:
            warn(f"{name}: {GUESS}")
    return familiar


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
    json: Json = False,
    device: Device = "auto",
) -> int:
    """How well each caption of a table fits its photo: a reference-free score, low for wrong captions.

    Prints a table: image, caption, log-likelihood in nats, the same less the sentence prior, and both in bits a word.

    Args:
        pairs: CSV, TSV, JSONL or Parquet with an image and a caption column; photos relative to its folder.
        model: Bundled model, folder or hub name.
        json: Print JSON, one object a line.
        device: Where to compute.
    """
    if pairs is None:
        raise Usage("say where the table is: --pairs TABLE")
    from mrnn.corpora.table import read_pairs
    from mrnn.encoders import pool_features
    from mrnn.text import tokenise

    rows, broken = read_pairs(pairs)
    for where in broken:
        warn(f"left out {where}: it has no photo or no caption")
    wordless = {caption for _, _, caption in rows if not tokenise(caption)}
    for caption in wordless:
        warn(f"left out {caption!r}: it has no word")
    rows = [row for row in rows if row[2] not in wordless]
    pipeline = open_model(model, device)
    names = list(dict.fromkeys(str(path) for _, path, _ in rows))
    features, positions, errors = pool_features(pipeline.encoder, names)
    for error in errors:
        warn(f"left out {error}")
    place = {names[position]: i for i, position in enumerate(positions)}
    familiar = _familiar(pipeline, features, [names[i] for i in positions])
    usable = [row for row in rows if str(row[1]) in place]
    if not json:
        print("image\tcaption\traw\tnormalised\traw bits a word\tnormalised bits a word")
    part = 2000
    with bar("scoring", len(usable)) as advance:
        for start in range(0, len(usable), part):
            some = usable[start : start + part]
            results = pipeline.score_pairs(features, [place[str(path)] for _, path, _ in some], [c for *_, c in some])
            for (image, path, caption), fields in zip(some, results, strict=True):
                if json:
                    known = familiar[place[str(path)]]
                    print(as_json({"image": image, "caption": caption, **fields, "familiar": known}))
                else:
                    numbers = ("" if v is None else f"{v:.3f}" for v in fields.values())
                    print_row(image, caption, *numbers)
            advance(len(some))
    return 1 if errors or broken or wordless else 0
