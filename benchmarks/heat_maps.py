"""Do heat maps show where a word's evidence lies? python -m benchmarks.heat_maps DIR/flickr8k [PHOTOS]

Deletion greys out a photo's cells from the hottest on, insertion uncovers them from the hottest on; what is measured
is the evidence, in bits, that the photo keeps for the content words of its own caption. A good map makes the deletion
curve fall and the insertion curve rise early. Against it stand random maps and one that is hot in the centre;
occlusion, which shares no code with the heat, is the check. Writes docs/explanation.json and docs/images/heat-maps.png.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from mrnn.corpora import read_corpora
from mrnn.encoders import pool_features
from mrnn.images import open_image
from mrnn.pipeline import load
from mrnn.tasks.likelihood import token_log_probabilities

STEPS = 10
MAPS = ("heat", "occlusion", "centre", "random")


def occlusion(
    photo: Image.Image, rows: int, columns: int, score: Callable[[list[Image.Image]], Float[np.ndarray, "K T"]]
) -> Float[np.ndarray, "T GH GW"]:
    """Bits that each word loses when a cell of the photo is greyed out: a check on heat that shares no code with it.

    Args:
        photo: Upright RGB.
        rows: GH.
        columns: GW.
        score: Natural log-probabilities of the T words for each of K photos.
    """
    grey = tuple(int(x) for x in np.asarray(photo).reshape(-1, 3).mean(0))
    masked = []
    for r in range(rows):
        for c in range(columns):
            copy = photo.copy()
            copy.paste(grey, cell_box(photo.size, rows, columns, r, c))
            masked.append(copy)
    whole = score([photo])
    return ((whole - score(masked)) / math.log(2)).T.reshape(-1, rows, columns)


def cell_box(size: tuple[int, int], rows: int, columns: int, row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a grid cell, in pixels."""
    width, height = size
    left, top = column * width // columns, row * height // rows
    return left, top, (column + 1) * width // columns, (row + 1) * height // rows


def main() -> None:
    """Measure and draw."""
    folder, n = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    pipe = load("flickr8k")
    rng = np.random.default_rng(0)
    curves: dict[str, dict[str, list[np.ndarray]]] = {m: {"deletion": [], "insertion": []} for m in MAPS}
    agreement = []
    photos = read_corpora([folder]).split("test")
    for photo in (photos[i] for i in sorted(rng.choice(len(photos), n, replace=False))):
        image = open_image(photo.path)
        found = pipe.explain(image)
        ids = pipe.sentence_ids([found.text])[0]
        content = [i for i, word in enumerate(found.words) if word.content]
        if not content or found.heat is None:
            continue

        def score(images, ids=ids, content=content):
            """Natural log-probabilities of the content words."""
            features = pool_features(pipe.encoder, images)[0]
            b = pipe.model.encode_image(features)
            tokens = token_log_probabilities(pipe.model, pipe.vocabulary, [ids] * len(images), b)
            return np.array(tokens)[:, content]

        rows, columns = found.heat.shape
        y, x = np.mgrid[:rows, :columns]
        maps = {
            "heat": found.heat,
            "occlusion": occlusion(image, rows, columns, score).sum(0),
            "centre": -((y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2),
            "random": rng.random((rows, columns)),
        }
        agreement.append(np.corrcoef(maps["heat"].ravel(), maps["occlusion"].ravel())[0, 1])
        grey = np.full_like(np.asarray(image), np.asarray(image).reshape(-1, 3).mean(0).astype(np.uint8))
        for name, heat in maps.items():
            order = np.argsort(-heat.ravel(), kind="stable")
            for kind in ("deletion", "insertion"):
                base, other = (np.asarray(image), grey) if kind == "deletion" else (grey, np.asarray(image))
                frames = []
                for step in range(STEPS + 1):
                    frame = base.copy()
                    for cell in order[: round(step / STEPS * len(order))]:
                        left, top, right, bottom = cell_box(image.size, rows, columns, cell // columns, cell % columns)
                        frame[top:bottom, left:right] = other[top:bottom, left:right]
                    frames.append(Image.fromarray(frame))
                curves[name][kind].append(score(frames).sum(1) / math.log(2))
    _report(curves, agreement)


def _report(curves, agreement) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    results: dict[str, dict[str, float]] = {}
    for axes, kind in zip(figure.subplots(1, 2), ("deletion", "insertion"), strict=True):
        for name in MAPS:
            values = np.stack(curves[name][kind])
            values = values - values[:, [0 if kind == "deletion" else -1]]  # bits lost against the whole photo
            mean, error = values.mean(), values.mean(1).std() / np.sqrt(len(values))
            results.setdefault(name, {})[kind] = float(mean)
            results[name][f"{kind} standard error"] = float(error)
            axes.plot(np.linspace(0, 100, STEPS + 1), values.mean(0), label=f"{name}: {mean:.2f}")
        axes.set(title=kind, xlabel="cells changed, %", ylabel="bits lost by the content words")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("docs/images/heat-maps.png", dpi=120)
    record = {"photos": len(agreement), "heat and occlusion, correlation": float(np.mean(agreement)), "maps": results}
    Path("docs/explanation.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
