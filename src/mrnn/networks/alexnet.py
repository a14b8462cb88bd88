"""AlexNet (Krizhevsky et al. 2012), the paper's encoder: its 7th layer, 4096 numbers (fc7, DeCAF).

The state dict is torchvision's `alexnet` (the 2014 "one weird trick" variant, arXiv 1404.5997).

Shapes: N images, S = 224 side of the input.
"""

from torch import Tensor, nn

from mrnn.networks.checkpoints import IMAGENET_CROP, load_checkpoint

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


class AlexNet(nn.Module):
    """AlexNet up to its 7th layer, with the classifier kept for the state dict's sake.

    Args:
        classes: Rows of the classifier.
        width: D, units of the 6th and 7th layers; 4096 in every published checkpoint.
    """

    def __init__(self, classes: int = 1000, width: int = 4096):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, width),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, classes),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """fc7 after its ReLU, (N, 4096), of normalised photos (N, 3, 224, 224); it has no grid of its width."""
        return self.blocks()(x), None

    def blocks(self) -> nn.Sequential:
        """The layers up to fc7 and its ReLU."""
        return nn.Sequential(*self.features, self.avgpool, nn.Flatten(), *list(self.classifier)[:6])


def load(source: str | None) -> tuple[AlexNet, int]:
    """The network with the weights of a checkpoint file, or the published ones, and its width D."""
    network = AlexNet()
    load_checkpoint(network, "alexnet", source, URL)
    return network, 4096


PREPROCESSING = IMAGENET_CROP
