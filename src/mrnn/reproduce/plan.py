"""Which rows a table has, and the steps that make them."""

from dataclasses import dataclass

from mrnn.models import MODELS, model_name
from mrnn.recipes import RECIPES
from mrnn.reproduce.reported import CAPTIONING


@dataclass(frozen=True)
class Row:
    """A row of ours.

    Args:
        label: As it stands in the table.
        recipe: Named in `RECIPES`.
        minutes: What training it took on two cores, roughly; for the estimate of the time left alone.
        seeds: The runs whose mean and spread the row shows.
        consensus: Whether a second row shows the same models with consensus re-ranking.
        ablation: Whether it stands in the table of ablations.
    """

    label: str
    recipe: str
    minutes: float
    seeds: tuple[int, ...] = (0,)
    consensus: bool = False
    ablation: bool = False

    @property
    def sees_image(self) -> bool:
        """Whether its model looks at the image, without which it ranks by chance."""
        return MODELS[model_name(RECIPES[self.recipe]().model)].uses_image


FEATURES = "EfficientNet-Lite2"
TABLES: dict[str, tuple[Row, ...]] = {
    "flickr8k": (
        Row("back-off GT2", "flickr8k-gt2", 0.1),
        Row("back-off GT3", "flickr8k-gt3", 0.1),
        Row("Kneser-Ney trigrams", "flickr8k-kn3", 0.1),
        Row("LBL", "flickr8k-lbl", 6),
        Row("RNN-Base", "flickr8k-rnn", 6),
        Row(f"MLBL-B, {FEATURES}", "flickr8k-mlbl-b", 6, seeds=(0, 1, 2)),
        Row(f"MLBL-F, {FEATURES}", "flickr8k-mlbl-f", 6, seeds=(0, 1, 2)),
        Row(f"m-RNN, {FEATURES}", "flickr8k-likelihood", 7, seeds=(0, 1, 2), consensus=True),
        Row(f"m-RNN, agreeing captions count more, {FEATURES}", "flickr8k", 2, seeds=(0, 1, 2)),
        Row("m-RNN, AlexNet", "flickr8k-alexnet", 12),
        Row("m-RNN, VGG-16", "flickr8k-vgg16", 12),
        Row("m-RNN in half the epochs", "flickr8k-short", 3.5, ablation=True),
        Row("without w(t) in the multimodal layer", "flickr8k-without-word", 3.5, ablation=True),
        Row("one embedding layer", "flickr8k-one-embedding", 3.5, ablation=True),
        Row("sigmoid for ReLU", "flickr8k-sigmoid", 3.5, ablation=True),
        Row("tanh for ReLU", "flickr8k-tanh", 3.5, ablation=True),
        Row("GRU", "flickr8k-gru", 4, ablation=True),
        Row("LSTM", "flickr8k-lstm", 4, ablation=True),
        Row("layers of half the size", "flickr8k-half", 2, ablation=True),
        Row("layers of twice the size", "flickr8k-double", 9, ablation=True),
        Row(f"m-RNN, shared weights, {FEATURES}", "flickr8k-shared", 6),
        Row(f"m-RNN, wider, shared weights, {FEATURES}", "flickr8k-paper2", 14),
    ),
    "flickr30k": (
        Row("RNN-Base", "flickr30k-rnn", 25),
        Row(f"m-RNN, {FEATURES}", "flickr30k", 30, seeds=(0, 1, 2), consensus=True),
        Row("m-RNN, AlexNet", "flickr30k-alexnet", 40),
        Row("m-RNN, wider, shared weights, VGG-16", "flickr30k-vgg16", 80),
    ),
    "iaprtc12": (
        Row("back-off GT2", "iaprtc12-gt2", 0.1),
        Row("back-off GT3", "iaprtc12-gt3", 0.1),
        Row("LBL", "iaprtc12-lbl", 7),
        Row("RNN-Base", "iaprtc12-rnn", 7),
        Row(f"MLBL-B, {FEATURES}", "iaprtc12-mlbl-b", 7),
        Row(f"MLBL-F, {FEATURES}", "iaprtc12-mlbl-f", 7),
        Row(f"m-RNN, {FEATURES}", "iaprtc12", 8, seeds=(0, 1, 2)),
        Row("MLBL-B, AlexNet", "iaprtc12-mlbl-b-alexnet", 14),
        Row("MLBL-F, AlexNet", "iaprtc12-mlbl-f-alexnet", 14),
        Row("m-RNN, AlexNet", "iaprtc12-alexnet", 15),
        Row("m-RNN, VGG-16", "iaprtc12-vgg16", 15),
    ),
    "coco": (
        Row("RNN-Base", "coco-rnn", 90),
        Row(f"m-RNN, {FEATURES}", "coco", 110, seeds=(0, 1, 2), consensus=True),
        Row("m-RNN, AlexNet", "coco-alexnet", 150),
        Row("m-RNN, wider, shared weights, VGG-16", "coco-vgg16", 300),
    ),
}
assert set(TABLES) == set(CAPTIONING)


@dataclass(frozen=True)
class Step:
    """One run: a row's recipe with one seed, trained and measured.

    Args:
        row: Its row.
        seed: Of the training.
    """

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its file of figures."""
        return self.row.recipe if len(self.row.seeds) == 1 else f"{self.row.recipe}-seed{self.seed}"


def steps(table: str) -> list[Step]:
    """The steps of a table, in their order.

    Raises:
        ValueError: There is no such table.
    """
    if table not in TABLES:
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return [Step(row, seed) for row in TABLES[table] for seed in row.seeds]
