"""Photos that fit a sentence or are like a photo: a shortlist by products, its order by exact scores.

Shapes: N photos, K of a shortlist, M width of an image vector.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from mrnn.images import ImageSource
from mrnn.library.tables import Tables, one_of, parts, quote, vectors
from mrnn.library.walk import normal
from mrnn.pipeline import Pipeline
from mrnn.runtime.protocol import top_k

SHORTLIST = 50
SAMPLE = 1000
# Bits that a photo must add to a sentence to fit it: one makes it twice as likely. Chosen on COCO's dev photos, see
# docs/library.md.
FITS = 1.0
# Photos of a folder that a condition of SQL names one by one, which takes a quarter of a second.
NAMED = 20_000
_SHOWN = ("hash", "taken", "taken_from", "captions", "confidence")
_READ = (*_SHOWN, "image")


@dataclass(frozen=True)
class Filters:
    """Which photos a search looks at.

    Args:
        folder: Only photos in this folder or below it.
        after: Only photos taken on this day or later, as `Found.taken` says.
        before: Only photos taken on this day or earlier.
        caption: Only photos with a caption that holds this, whatever the case.
    """

    folder: Path | None = None
    after: date | None = None
    before: date | None = None
    caption: str = ""


@dataclass(frozen=True)
class Found:
    """A photo that a search found.

    Args:
        id: Hash of its content.
        path: A file that holds it: one that is there, if any is.
        score: What it was ranked by: nats for a sentence, a cosine for a photo, standard deviations for both; 0 where
            photos are listed by date.
        caption: The best caption of it.
        taken: When, as ISO date and time.
        guess: Whether the caption is no more than a guess.
        evidence: Bits that the photo adds to the sentence, log2 P(w | I) / P(w); None where that cannot be told.
        places: All files that hold it.
        taken_from: What says when it was taken: `EXIF`, `XMP`, `IPTC`, `GPS`, `PNG`, `name` (the file's), `Takeout`
            (the file that Google's export lays beside it), `file` (the file's time); empty where that was not kept.
        confidence: How far the caption can be trusted, 0 to 1; None where that is not known.
    """

    id: str
    path: Path
    score: float
    caption: str
    taken: str
    guess: bool = False
    evidence: float | None = None
    places: tuple[Path, ...] = ()
    taken_from: str = ""
    confidence: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the photo speaks for the sentence."""
        return self.evidence is None or self.evidence > FITS


def search(
    tables: Tables,
    pipeline: Pipeline,
    sentence: str | None,
    like: ImageSource | None,
    top: int,
    filters: Filters,
    shortlist: int,
) -> list[Found]:
    """See `Library.search`."""
    wanted = condition(tables, filters)
    if wanted is None:
        return []
    where, folder = wanted
    if sentence is None and like is None:
        return _by_date(tables, pipeline, where, folder, top)
    population = pipeline.references
    if population is None:  # of a model without reference images: some of the library's own
        population = vectors(tables.read("contents", ["image"], limit=SAMPLE))
        if not len(population):
            return []
    centre = population.mean(0)
    query = np.zeros(len(centre), np.float32)
    told = photo = None
    if sentence is not None:
        told = _Told(pipeline, sentence, population, centre)
        query += told.vector / (told.deviation if like is not None else 1)
    if like is not None:
        photo = _Alike(pipeline, like, population, centre)
        query += photo.vector / (photo.deviation if sentence is not None else 1)
    with ThreadPoolExecutor(1) as other:  # the tables are looked through while the sentence is scored by itself
        prior = other.submit(told.prior) if told is not None and photo is None else None
        found = _first(tables, folder, max(shortlist, top), lambda k: tables.nearest(query, k, where, _READ))
    if not len(found):
        return []
    image = vectors(found)
    evidence = np.full(len(image), np.nan)
    if told is not None and photo is not None:
        scores = told.standard(told.exact(image)) + photo.standard(photo.cosines(image))
    elif told is not None:
        assert prior is not None
        scores = told.exact(image)
        evidence = (scores - prior.result()) / math.log(2)
    else:
        assert photo is not None
        scores = photo.cosines(image)
    order = top_k(scores[None].astype(np.float32), top)[1][0]
    return _found(tables, pipeline, found.take(order), image[order], scores[order], evidence[order])


def condition(tables: Tables, filters: Filters) -> tuple[str, str] | None:
    """SQL of the filters, empty for all photos, and the folder that it says nothing of; None if no photo can pass."""
    said, below = [], ""
    if filters.after is not None:
        said.append(f"taken >= '{filters.after.isoformat()}'")
    if filters.before is not None:
        said.append(f"taken <= '{filters.before.isoformat()}T99'")
    if filters.caption:
        said.append(f"contains(lower(array_to_string(captions, '\n')), {quote(filters.caption.lower())})")
    if filters.folder is not None:
        below = os.path.join(normal(filters.folder), "")  # noqa: PTH118
        rows = tables.read("files", ["hash"], f"{_inside(below)} AND hash != ''", limit=NAMED + 1)
        if not len(rows):
            return None
        if len(rows) <= NAMED:
            said.append(one_of("hash", sorted(set(rows["hash"].to_pylist()))))
            below = ""
    return " AND ".join(said), below


def _inside(below: str) -> str:
    return f"starts_with(path, {quote(below)})"


def _first(tables: Tables, folder: str, k: int, ask: Callable[[int], Any]) -> Any:
    """The first k rows that `ask` finds, or of those that lie in a folder: more and more are asked for, then."""
    if not folder:
        return ask(k)
    asked = 4 * k
    while True:
        rows = ask(asked)
        hashes = rows["hash"].to_pylist()
        held: set[str] = set()
        for some in parts(hashes):
            held.update(
                tables.read("files", ["hash"], f"{one_of('hash', some)} AND {_inside(folder)}")["hash"].to_pylist()
            )
        at = [i for i, hash in enumerate(hashes) if hash in held]
        if len(at) >= k or len(rows) < asked:
            return rows.take(at[:k])
        asked *= 4


def present(paths: Sequence[str]) -> Path:
    """The first path that there is; the first of all if there is none."""
    return next((Path(path) for path in sorted(paths) if Path(path).exists()), Path(min(paths)))


class _Told:
    """How well photos fit a sentence or a phrase."""

    def __init__(self, pipeline: Pipeline, sentence: str, population: np.ndarray, centre: np.ndarray):
        self.references, self.asked = pipeline.references, pipeline.asked(sentence, centre)
        self.vector = self.asked.first.vectors[0]
        scores = self.asked.first.scores(population)[:, 0]
        self.mean, self.deviation = scores.mean(), scores.std().clip(1e-6)

    def exact(self, image: np.ndarray) -> np.ndarray:
        return self.asked.exact(image)

    def standard(self, scores: np.ndarray) -> np.ndarray:
        return (scores - self.mean) / self.deviation

    def prior(self) -> float:
        """What any photo gives; not a number without reference images."""
        return math.nan if self.references is None else self.asked.prior(self.references)


class _Alike:
    """How like a photo others are: the cosine of image vectors about the mean training image.

    The shortlist is chosen by the product with the photo's direction, over the usual length of the others.
    """

    def __init__(self, pipeline: Pipeline, like: ImageSource, population: np.ndarray, centre: np.ndarray):
        self.centre = centre
        own = pipeline.model.encode_image(pipeline.features([like]))[0] - centre
        self.direction = own / np.linalg.norm(own).clip(1e-8)
        usual = np.linalg.norm(population - centre, axis=1).mean().clip(1e-8)
        self.vector = self.direction / usual
        cosines = self.cosines(population)
        self.mean, self.deviation = cosines.mean(), cosines.std().clip(1e-6)

    def cosines(self, image: np.ndarray) -> np.ndarray:
        directions = image - self.centre
        return directions @ self.direction / np.linalg.norm(directions, axis=1).clip(1e-8)

    def standard(self, scores: np.ndarray) -> np.ndarray:
        return (scores - self.mean) / self.deviation


def _by_date(tables: Tables, pipeline: Pipeline, where: str, folder: str, top: int) -> list[Found]:
    from lance.dataset import ColumnOrdering

    newest = [ColumnOrdering("taken", ascending=False)]
    rows = _first(tables, folder, top, lambda k: tables.read("contents", _READ, where, limit=k, order_by=newest))
    none = np.full(len(rows), np.nan)
    return _found(tables, pipeline, rows, vectors(rows), np.zeros(len(rows)), none) if len(rows) else []


def _found(
    tables: Tables, pipeline: Pipeline, rows: Any, image: np.ndarray, scores: np.ndarray, evidence: np.ndarray
) -> list[Found]:
    shown = rows.select(_SHOWN).to_pylist()
    places = tables.places([row["hash"] for row in shown])
    guesses = pipeline.guesses(image, [row["confidence"] for row in shown])
    return [
        Found(
            row["hash"],
            present(places[row["hash"]]),
            float(score),
            row["captions"][0],
            row["taken"],
            guess,
            None if math.isnan(bits) else float(bits),
            tuple(map(Path, sorted(places[row["hash"]]))),
            row["taken_from"],
            row["confidence"],
        )
        for row, score, bits, guess in zip(shown, scores, evidence, guesses, strict=True)
        if row["hash"] in places  # a photo without a file is what a kill left
    ]
