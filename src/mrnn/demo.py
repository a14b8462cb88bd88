"""`make demo`: captions for photos that scikit-image and scikit-learn ship, by the bundled model, offline."""

import sys
from pathlib import Path

import mrnn

SAMPLES = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg")


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
    print("Captions (log-likelihood in nats):")
    for photo, captions in zip(photos, pipe.caption(photos), strict=True):
        print(f"  {photo.name:14} {captions[0].text}  ({captions[0].log_likelihood:.1f})")
    sentence = "a man holding a camera on a tripod"
    scores = pipe.log_likelihood(photos, [sentence])[:, 0]
    print(f'\nPhotos for "{sentence}", the likeliest first:')
    for i in scores.argsort(descending=True).tolist()[:3]:
        print(f"  {photos[i].name:14} ({scores[i]:.1f})")
    print("\nNext: mrnn caption YOUR_PHOTO.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
