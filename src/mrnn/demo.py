"""`make demo`: captions for photos that scikit-image and scikit-learn ship, by the bundled model, offline.

`python -m mrnn.demo PICTURE.png` also draws them.
"""

import sys
from pathlib import Path

import mrnn
from mrnn.files import atomic_path
from mrnn.generation import Caption
from mrnn.images import open_image

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


def draw(photos: list[Path], captions: list[list[Caption]], picture: Path) -> None:
    """Draw photos with their captions.

    Args:
        photos: Files.
        captions: Of each photo; the first is shown.
        picture: PNG to write.
    """
    from textwrap import fill

    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(photos), 3.4))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.22, top=0.99, wspace=0.05)
    for axes, photo, several in zip(figure.subplots(1, len(photos)), photos, captions, strict=True):
        axes.imshow(open_image(photo).resize((260, 260)))
        axes.set_axis_off()
        axes.text(0.5, -0.05, fill(several[0].text, 26), fontsize=10, ha="center", va="top", transform=axes.transAxes)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=90)


def main() -> int:
    """Caption every sample, then find the photo that fits a sentence best."""
    photos = sample_photos()
    pipe = mrnn.load()
    captions = pipe.caption(photos)
    print("Captions (log-likelihood in nats):")
    for photo, several in zip(photos, captions, strict=True):
        print(f"  {photo.name:14} {several[0].text}  ({several[0].log_likelihood:.1f})")
    scores = pipe.log_likelihood(photos, [SENTENCE])[:, 0]
    print(f'\nPhotos for "{SENTENCE}", the likeliest first:')
    for i in scores.argsort(descending=True).tolist()[:3]:
        print(f"  {photos[i].name:14} ({scores[i]:.1f})")
    print("\nNext: mrnn caption YOUR_PHOTO.jpg")
    if sys.argv[1:]:
        draw(photos, captions, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
