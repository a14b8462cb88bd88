"""Past the paper: what it left as future work, each against `mrnn`; and `base`, which brings the best together.

Every recipe runs by `mrnn train NAME --data DIR --out runs/NAME`, what it comes after first, unless `--start` names a
run of that; docs/beyond.md says what each adds.
"""

from dataclasses import asdict, replace
from typing import Any

from mrnn.models import ClassesConfig, MRNNConfig, RegionsConfig, TransformerConfig, TunedConfig
from mrnn.recipes import paper
from mrnn.recipes.recipe import Recipe
from mrnn.training import ObjectiveConfig

MODEL: dict[str, Any] = {"recurrence": "gru", "dropout_word": 0.25, "dropout_image": 0.4, "dropout_multimodal": 0.5}
CONTRASTIVE = ObjectiveConfig(contrastive=0.3)
# Short trainings that begin from a model trained before.
FURTHER = replace(paper.TRAINING, epochs=4, learning_rate=1e-3)
SELF_CRITICAL = replace(
    FURTHER,
    epochs=3,
    learning_rate=4e-4,
    weight_decay=0.1,
    together=True,
    average=0.99,
    choose="cider",
    objective=ObjectiveConfig(likelihood=0.3, contrastive=0.1, self_critical=1.0),
)


def gru() -> Recipe:
    """m-RNN with a GRU as its recurrent layer."""
    recipe = paper.mrnn()
    return replace(recipe, model=MRNNConfig(**MODEL), training=replace(recipe.training, epochs=12))


def contrastive() -> Recipe:
    """The same with a contrastive term, so that retrieval is trained."""
    recipe = gru()
    return replace(recipe, training=replace(recipe.training, objective=CONTRASTIVE))


def regions() -> Recipe:
    """The same as `gru` with attention over a grid of 3 x 3 regions."""
    return replace(gru(), encoder="grid:3:efficientnet_lite2", model=RegionsConfig(**MODEL))


def regions_contrastive() -> Recipe:
    """Four more epochs of `regions` with the contrastive term."""
    return replace(regions(), after="regions", training=replace(FURTHER, objective=CONTRASTIVE))


def pretraining() -> Recipe:
    """`regions` on photos and, by `--text FILE`, on captions without photos."""
    recipe = regions()
    return replace(recipe, training=replace(recipe.training, epochs=5, learning_rate=2e-3, weight_decay=0.1))


def pretrained() -> Recipe:
    """Eight more epochs of that on the photos alone."""
    training = replace(FURTHER, epochs=8)
    return replace(regions(), after="regions-text", training=training)


def pretrained_self_critical() -> Recipe:
    """Two more epochs of `pretrained` for the CIDEr of its captions."""
    return replace(regions(), after="regions-text-photos", training=replace(SELF_CRITICAL, epochs=2))


def self_critical() -> Recipe:
    """Three more epochs of the paper's m-RNN for the CIDEr of its captions, likelihood and contrast beside it."""
    return replace(paper.mrnn(), after="mrnn", training=SELF_CRITICAL)


def regions_self_critical() -> Recipe:
    """The same of `regions_contrastive`."""
    return replace(regions(), after="regions-contrastive", training=SELF_CRITICAL)


def with_cnn(recipe: Recipe, after: str, epochs: int = 5) -> Recipe:
    """More epochs of a plain m-RNN with the last two stages and the head of its CNN."""
    training = replace(FURTHER, epochs=epochs, encoder_rate=0.2, weight_decay=0.2, together=True, objective=CONTRASTIVE)
    return replace(recipe, after=after, model=TunedConfig(**asdict(recipe.model), block=16), training=training)


def tuned() -> Recipe:
    """`contrastive` with its CNN."""
    return with_cnn(contrastive(), "contrastive")


def tuned_self_critical() -> Recipe:
    """Two more epochs of `tuned` for the CIDEr of its captions."""
    training = replace(SELF_CRITICAL, epochs=2, encoder_rate=0.2)
    return replace(tuned(), after="tuned", training=training)


def transformer() -> Recipe:
    """A Transformer in the place of the recurrent layer. Dev perplexity 15.32; test 14.78, BLEU-4 .206, CIDEr .536."""
    model = TransformerConfig(dropout_word=0.25, dropout_layer=0.2, dropout_image=0.4, dropout_multimodal=0.5)
    recipe = gru()
    return replace(recipe, model=model, training=replace(recipe.training, learning_rate=1e-3))


def classes() -> Recipe:
    """The same as `gru` with words of the image classifier; `--text FILE` adds captions to learn words from."""
    return replace(gru(), model=ClassesConfig(**MODEL))


def pair_text() -> Recipe:
    """A GRU of 512 units over two networks, on photos and, by `--text FILE`, on captions without photos."""
    recipe = gru()
    training = replace(recipe.training, epochs=4, batch=300, learning_rate=2e-3, weight_decay=0.1)
    return replace(
        recipe,
        encoder="efficientnet_lite1+2@288",
        model=MRNNConfig(**MODEL, recurrent=512),
        training=training,
    )


def pair() -> Recipe:
    """`pair-text` with both its CNNs whole, and contrast.

    mrnn train pair --data DIR/flickr8k --data DIR/coco --data DIR/coco_more --data DIR/flickr30k_photos
    --data DIR/pascal --text DIR/coco/captions.json --text DIR/flickr30k/captions.json --out runs/pair --device cuda

    Ten minutes on an H200. Dev perplexity 13.20 on Flickr8K and COCO.
    """
    recipe = pair_text()
    training = replace(
        FURTHER,
        epochs=8,
        batch=300,
        encoder_rate=0.15,
        weight_decay=0.2,
        together=True,
        average=0.999,
        objective=CONTRASTIVE,
    )
    return replace(recipe, after="pair-text", model=TunedConfig(**asdict(recipe.model), block=0), training=training)


def base() -> Recipe:
    """Three more epochs of `pair`'s words, with captions weighed by agreement: the default of every verb.

    mrnn train base --data DIR/flickr8k --data DIR/coco --start runs/pair --out runs/base

    The bundled one's were trained on features of the photos as they are, in fifteen minutes on two cores. Dev
    perplexity 13.49. Flickr8K test: perplexity 13.43, BLEU-4 .242, CIDEr .647, R@1 / R@10 41.0 / 84.0 image to sentence
    and 33.2 / 76.0 sentence to image; COCO test: 12.44, .283, .875, 59.2 / 95.6 and 49.3 / 92.8.
    """
    recipe = pair()
    training = replace(
        recipe.training,
        epochs=3,
        batch=150,
        learning_rate=5e-4,
        encoder_rate=0.0,
        average=0.99,
        choose="cider",
        objective=ObjectiveConfig(contrastive=0.3, agreement=2.0),
    )
    generation = replace(recipe.generation, beam=8, prior_weight=0.3, agreement=0.3)
    return replace(recipe, after="pair", training=training, generation=generation)


RECIPES = {
    "gru": gru,
    "contrastive": contrastive,
    "regions": regions,
    "regions-contrastive": regions_contrastive,
    "regions-text": pretraining,
    "regions-text-photos": pretrained,
    "regions-text-self-critical": pretrained_self_critical,
    "self-critical": self_critical,
    "regions-self-critical": regions_self_critical,
    "tuned": tuned,
    "tuned-self-critical": tuned_self_critical,
    "transformer": transformer,
    "classes": classes,
    "pair-text": pair_text,
    "pair": pair,
    "base": base,
}
