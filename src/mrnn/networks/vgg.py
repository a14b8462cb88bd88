"""VGG-16 and VGG-19 (Simonyan and Zisserman, arXiv 1409.1556), the second paper's encoder: fc7, 4096 numbers.

The state dict is torchvision's `vgg16` and `vgg19`.

Shapes: N images, S = 224 side of the input.
"""

from torch import Tensor, nn

from mrnn.networks.checkpoints import IMAGENET_CROP, load_checkpoint

URLS = {
    16: "https://download.pytorch.org/models/vgg16-397923af.pth",
    19: "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}
# channels and convolutions of the five stages, each ended by a 2 x 2 maximum
STAGES = {
    16: [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)],
    19: [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)],
}


class VGG(nn.Module):
    """VGG up to its fc7 layer, with the classifier kept for the state dict's sake.

    Args:
        depth: 16 or 19.
        classes: Rows of the classifier.
    """

    def __init__(self, depth: int, classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, convolutions in STAGES[depth]:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """fc7 after its ReLU, (N, 4096), of normalised photos (N, 3, 224, 224); it has no grid of its width."""
        return self.blocks()(x), None

    def blocks(self) -> nn.Sequential:
        """The layers up to fc7 and its ReLU."""
        return nn.Sequential(*self.features, self.avgpool, nn.Flatten(), *list(self.classifier)[:5])


def load(depth: int, source: str | None) -> tuple[VGG, int]:
    """The network with the weights of a checkpoint file, or the published ones, and its width D."""
    network = VGG(depth)
    load_checkpoint(network, f"vgg{depth}", source, URLS[depth])
    return network, 4096


PREPROCESSING = IMAGENET_CROP
