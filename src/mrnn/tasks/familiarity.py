"""How like the training photos a photo is: a guess is told from knowledge by distance.

A photo's distance is the mean distance of its image vector to its five nearest reference images', against the distances
that these have among themselves.

Shapes: N images, R reference images, F width of an image vector.
"""

import numpy as np

from mrnn.shapes import Float

NEIGHBOURS = 5
UNFAMILIAR = 0.99


class Familiarity:
    """How far a photo is from the training images, in percentiles of how far these are from each other.

    Args:
        references: (R, F), image vectors of training images.
        distances: (R,) how far each is from its nearest, ascending, where it is known.
    """

    def __init__(self, references: Float[np.ndarray, "R F"], distances: Float[np.ndarray, " R"] | None = None):
        self.references = references
        if distances is None:
            among = _distances(references, references)
            np.fill_diagonal(among, np.inf)
            distances = np.sort(_nearest(among))
        self.distances = distances

    def percentile(self, image: Float[np.ndarray, "N F"]) -> Float[np.ndarray, " N"]:
        """Between 0 and 1; above `UNFAMILIAR` the photo is unlike the training images."""
        distance = _nearest(_distances(image, self.references))
        return np.searchsorted(self.distances, distance) / len(self.distances)

    def unfamiliar(self, image: Float[np.ndarray, "N F"]) -> list[bool]:
        """Which photos are unlike anything the model was trained on."""
        return (self.percentile(image) > UNFAMILIAR).tolist()


def _nearest(distances: Float[np.ndarray, "N R"]) -> Float[np.ndarray, " N"]:
    k = min(NEIGHBOURS, max(1, distances.shape[1] - 1))
    return np.partition(distances, k - 1, axis=1)[:, :k].mean(1)


def _distances(a: Float[np.ndarray, "N F"], b: Float[np.ndarray, "R F"]) -> Float[np.ndarray, "N R"]:
    """Euclidean, by one product."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    return np.sqrt(squares.clip(0))
