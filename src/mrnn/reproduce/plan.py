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
        encoder: In the place of the recipe's own.
    """

    label: str
    recipe: str
    minutes: float
    seeds: tuple[int, ...] = (0,)
    consensus: bool = False
    ablation: bool = False
    encoder: str = ""

    @property
    def sees_image(self) -> bool:
        """Whether its model looks at the image, without which it ranks by chance."""
        return MODELS[model_name(RECIPES[self.recipe]().model)].uses_image


FEATURES = "EfficientNet-Lite2"
TABLES: dict[str, tuple[Row, ...]] = {
    "flickr8k": (
        Row("back-off GT2", "gt2", 0.1),
        Row("back-off GT3", "gt3", 0.1),
        Row("Kneser-Ney trigrams", "kn3", 0.1),
        Row("LBL", "lbl", 6),
        Row("RNN-Base", "rnn", 6),
        Row(f"MLBL-B, {FEATURES}", "mlbl-b", 6, seeds=(0, 1, 2)),
        Row(f"MLBL-F, {FEATURES}", "mlbl-f", 6, seeds=(0, 1, 2)),
        Row(f"m-RNN, {FEATURES}", "mrnn", 7, seeds=(0, 1, 2), consensus=True),
        Row(f"m-RNN, agreeing captions count more, {FEATURES}", "agreement", 2, seeds=(0, 1, 2)),
        Row("m-RNN, AlexNet", "mrnn", 12, encoder="alexnet"),
        Row("m-RNN, VGG-16", "mrnn", 12, encoder="vgg16"),
        Row("m-RNN in half the epochs", "mrnn-short", 3.5, ablation=True),
        Row("without w(t) in the multimodal layer", "mrnn-short-without-word", 3.5, ablation=True),
        Row("one embedding layer", "mrnn-short-one-embedding", 3.5, ablation=True),
        Row("sigmoid for ReLU", "mrnn-short-sigmoid", 3.5, ablation=True),
        Row("tanh for ReLU", "mrnn-short-tanh", 3.5, ablation=True),
        Row("GRU", "mrnn-short-gru", 4, ablation=True),
        Row("LSTM", "mrnn-short-lstm", 4, ablation=True),
        Row("layers of half the size", "mrnn-short-half", 2, ablation=True),
        Row("layers of twice the size", "mrnn-short-double", 9, ablation=True),
        Row(f"m-RNN, shared weights, {FEATURES}", "mrnn-shared", 6),
        Row(f"m-RNN, wider, shared weights, {FEATURES}", "mrnn-wide", 14),
    ),
    "flickr30k": (
        Row("RNN-Base", "rnn", 25),
        Row(f"m-RNN, {FEATURES}", "mrnn", 30, seeds=(0, 1, 2), consensus=True),
        Row("m-RNN, AlexNet", "mrnn", 40, encoder="alexnet"),
        Row("m-RNN, wider, shared weights, VGG-16", "mrnn-wide", 80, encoder="vgg16"),
    ),
    "iaprtc12": (
        Row("back-off GT2", "gt2", 0.1),
        Row("back-off GT3", "gt3", 0.1),
        Row("LBL", "lbl", 7),
        Row("RNN-Base", "rnn", 7),
        Row(f"MLBL-B, {FEATURES}", "mlbl-b", 7),
        Row(f"MLBL-F, {FEATURES}", "mlbl-f", 7),
        Row(f"m-RNN, {FEATURES}", "mrnn", 8, seeds=(0, 1, 2)),
        Row("MLBL-B, AlexNet", "mlbl-b", 14, encoder="alexnet"),
        Row("MLBL-F, AlexNet", "mlbl-f", 14, encoder="alexnet"),
        Row("m-RNN, AlexNet", "mrnn", 15, encoder="alexnet"),
        Row("m-RNN, VGG-16", "mrnn", 15, encoder="vgg16"),
    ),
    "coco": (
        Row("RNN-Base", "rnn", 90),
        Row(f"m-RNN, {FEATURES}", "mrnn", 110, seeds=(0, 1, 2), consensus=True),
        Row("m-RNN, AlexNet", "mrnn", 150, encoder="alexnet"),
        Row("m-RNN, wider, shared weights, VGG-16", "mrnn-wide", 300, encoder="vgg16"),
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
        name = f"{self.row.recipe}-{self.row.encoder}" if self.row.encoder else self.row.recipe
        return name if len(self.row.seeds) == 1 else f"{name}-seed{self.seed}"


def steps(table: str) -> list[Step]:
    """The steps of a table, in their order.

    Raises:
        ValueError: There is no such table.
    """
    if table not in TABLES:
        raise ValueError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return [Step(row, seed) for row in TABLES[table] for seed in row.seeds]
