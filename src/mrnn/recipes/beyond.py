"""Past the paper: what it left as future work, each on Flickr8K against the plain m-RNN of `flickr8k.py`.

Every recipe runs by `mrnn train NAME --data DIR/flickr8k --out runs/NAME`; docs/beyond.md says what each adds.
"""

from dataclasses import replace

from mrnn.models import ClassesConfig, RegionsConfig, TransformerConfig
from mrnn.recipes import flickr8k
from mrnn.recipes.recipe import Recipe
from mrnn.training import ObjectiveConfig

CONTRASTIVE = ObjectiveConfig(contrastive=0.3)


def gru() -> Recipe:
    """m-RNN with a GRU as its recurrent layer."""
    recipe = flickr8k.mrnn()
    return replace(recipe, model=replace(flickr8k.MRNN, recurrence="gru"), training=replace(recipe.training, epochs=12))


def contrastive() -> Recipe:
    """The same with a contrastive term, so that retrieval is trained."""
    recipe = gru()
    return replace(recipe, training=replace(recipe.training, objective=CONTRASTIVE))


def regions() -> Recipe:
    """The same with attention over a grid of 3 x 3 regions."""
    model = RegionsConfig(recurrence="gru", dropout_word=0.25, dropout_image=0.4, dropout_multimodal=0.5)
    return replace(gru(), encoder="grid:3:efficientnet_lite2", model=model)


def transformer() -> Recipe:
    """A Transformer in the place of the recurrent layer."""
    model = TransformerConfig(dropout_word=0.25, dropout_layer=0.2, dropout_image=0.4, dropout_multimodal=0.5)
    recipe = gru()
    return replace(recipe, model=model, training=replace(recipe.training, learning_rate=1e-3))


def classes() -> Recipe:
    """The same with words of the image classifier; `--text FILE` adds captions without photos to learn words from."""
    model = ClassesConfig(recurrence="gru", dropout_word=0.25, dropout_image=0.4, dropout_multimodal=0.5)
    return replace(gru(), model=model)


RECIPES = {
    "flickr8k-gru-long": gru,
    "flickr8k-contrastive": contrastive,
    "flickr8k-regions": regions,
    "flickr8k-transformer": transformer,
    "flickr8k-classes": classes,
}
