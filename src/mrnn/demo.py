"""`make demo`: captions for photos that scikit-image and scikit-learn ship, by the bundled model, offline.

`python -m mrnn.demo PICTURE.png` also draws them.
"""

import sys
from pathlib import Path

import mrnn
from mrnn.pipeline import Described

SAMPLES = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg")
SENTENCE = "a man holding a camera on a tripod"


def sample_photos() -> list[Path]:
    """Photos that the demo's dependencies ship.

    Raises:
        ValueError: The dependencies are not installed.
    """
    try:
        import skimage
        import sklearn.datasets
    except ImportError:
        raise ValueError("the sample photos need an extra: pip install 'mrnn[demo]'") from None
    skimage_folder = Path(skimage.__file__).parent / "data"
    sklearn_folder = Path(sklearn.datasets.__file__).parent / "images"
    photos = [*(skimage_folder / name for name in SAMPLES), *sorted(sklearn_folder.glob("*.jpg"))]
    return [photo for photo in photos if photo.is_file()]


def main() -> int:
    """Caption every sample, then find the photo that fits a sentence best."""
    photos = sample_photos()
    pipe = mrnn.load()
    said = sorted(zip(photos, pipe.describe(photos), strict=True), key=lambda pair: -(pair[1].confidence or 0))
    titles = [_title(described) for _, described in said]
    print("Captions, the surest first (confidence, 0 to 1):")
    for (photo, _), title in zip(said, titles, strict=True):
        print(f"  {photo.name:14} {title}")
    scores = pipe.log_likelihood(photos, [SENTENCE])[:, 0]
    print(f'\nPhotos for "{SENTENCE}", the likeliest first:')
    for i in (-scores).argsort().tolist()[:3]:
        print(f"  {photos[i].name:14} ({scores[i]:.1f})")
    print("\nNext: mrnn caption YOUR_PHOTO.jpg")
    if sys.argv[1:]:
        from mrnn.draw import draw_captions

        draw_captions([photo for photo, _ in said], titles, Path(sys.argv[1]))
    return 0


def _title(described: Described) -> str:
    sure = "" if described.confidence is None else f"{described.confidence:.2f}  "
    return f"{sure}{described.captions[0].text}" + (f"  ({described.note})" if described.note else "")


if __name__ == "__main__":
    sys.exit(main())
