"""PyTorch's hand: any registered model at use, on any device, by the protocol of `runtime/protocol.py`.

Shapes: as there; H hidden units under the softmax.
"""

import numpy as np
import torch
from torch import Tensor

from mrnn.models.base import LanguageModel, NeuralLanguageModel, map_state
from mrnn.models.precision import autocast, matrix_dtype
from mrnn.runtime.protocol import Array, Precision, Runtime, State
from mrnn.shapes import Float, Int


class TorchRuntime(Runtime):
    """A torch model at use.

    Args:
        model: Put into evaluation mode here; used where its weights lie, and not changed meanwhile.
        name: As registered.
        feature_shape: Of one photo's features; (D,) if None.
    """

    def __init__(self, model: LanguageModel, name: str, feature_shape: tuple[int, ...] | None = None):
        self.model, self.name = model.eval(), name
        self.vocabulary, self.uses_image, self.uses_regions = model.vocabulary, model.uses_image, model.uses_regions
        self.feature_shape = feature_shape or (model.features,)
        self._scorer: tuple[Precision, _Scorer] | None = None
        # Asked of the model, as of some it depends on the number of regions.
        with torch.inference_mode():
            self.image_width = model.encode_image(torch.zeros(1, *self.feature_shape, device=self.device)).shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(iter(self.model.buffers())).device

    def to(self, device: torch.device | str) -> "TorchRuntime":
        """Move the weights."""
        self.model.to(device)
        self._scorer = None
        return self

    def _here(self, array: Array) -> Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def _given(self, tensor: Tensor) -> Array:
        """The one place where numbers leave the device."""
        return tensor.float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()

    @torch.inference_mode()
    def encode_image(self, features: Float[Array, "N ..."]) -> Float[Array, "N F"]:
        """By the model's own call, some hundreds at a time."""
        some = (self._here(np.asarray(features[i : i + 512], np.float32)) for i in range(0, len(features), 512))
        parts = [self._given(self.model.encode_image(part)) for part in some]
        return np.concatenate(parts) if parts else np.empty((0, self.image_width), np.float32)

    @torch.inference_mode()
    def encode_cells(self, features: Float[Array, "C ..."]) -> Float[Array, "C F"]:
        """By the model's own call."""
        return self._given(self.model.encode_cells(self._here(features)))

    @torch.inference_mode()
    def begin(self, n: int) -> State:
        """By the model's own call; the state stays on its device."""
        return self.model.begin(n)

    @torch.inference_mode()
    def select(self, state: State, rows: Int[Array, " C"]) -> State:
        """On the device."""
        chosen = self._here(np.asarray(rows, np.int64))
        return map_state(lambda s: s.index_select(0, chosen), state)

    @torch.inference_mode()
    def text(self, words: Int[Array, " B"], state: State) -> tuple[Float[Array, "B M"], State]:
        """By the model's own call, one word long."""
        text, state = self.model.encode_text(self._here(words)[:, None], state)
        return self._given(text[:, 0]), state

    @torch.inference_mode()
    def distribution(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R V"]:
        """Softmax of the model's logits."""
        return self._given(self.model.logits(self._here(text), self._here(image)).float().log_softmax(-1))

    @torch.inference_mode()
    def pull(
        self, text: Float[Array, "R M"], image: Float[Array, "R F"], raised: Float[Array, "R V"]
    ) -> Float[Array, "R F"]:
        """By the model's own call."""
        return self._given(self.model.pull(self._here(text), self._here(image), self._here(raised)))

    @torch.inference_mode()
    def step(
        self,
        words: Int[Array, " B"],
        state: State,
        image: Float[Array, "B F"],
        k: int,
        allowed: Float[Array, " V"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"], State]:
        """All on the device; rounded is the softmax layer, which is most of the work, and what is fused under it."""
        text, state = self.model.encode_text(self._here(words)[:, None], state)
        said, seen = text[:, 0], self._here(image)
        usable = precision if isinstance(self.model, NeuralLanguageModel) else "float32"
        with autocast(usable, self.device) as reduced:
            narrow = torch.bfloat16 if reduced else torch.float32
            logits = self.model.logits(said.to(narrow), seen.to(narrow))
        log_p = logits.float().log_softmax(-1) + self._here(allowed)
        top, ids = log_p.topk(min(k, self.vocabulary), -1)
        return self._given(top), self._given(ids), state

    @torch.inference_mode()
    def log_p(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        row: Int[Array, " E"],
        target: Int[Array, " E"],
        precision: Precision = "float32",
    ) -> Float[Array, " E"]:
        """The normaliser of every row once, in memory that is used again; the words asked exactly."""
        if not isinstance(self.model, NeuralLanguageModel):
            return super().log_p(text, image, row, target)
        if self._scorer is None or self._scorer[0] != precision:
            self._scorer = precision, _Scorer(self.model, matrix_dtype(precision, self.device))
        found = self._scorer[1](*map(self._here, (text, image, row, target)))
        return self._given(found)

    @torch.inference_mode()
    def gradient(
        self,
        text: Float[Array, "R M"],
        image: Float[Array, "R F"],
        target: Int[Array, " R"],
        precision: Precision = "float32",
    ) -> tuple[Float[Array, " R"], Float[Array, "R F"]]:
        """All on the device."""
        said, seen, asked = self._here(text), self._here(image), self._here(target)[:, None]
        with autocast(precision, self.device):
            log_p = self.model.logits(said, seen).float().log_softmax(-1)
            own = log_p.gather(1, asked)[:, 0]
            raised = log_p.exp_().neg_()
            q = self.model.pull(said, seen, raised.scatter_add_(1, asked, torch.ones_like(own)[:, None]))
        return self._given(own), self._given(q)

    @torch.inference_mode()
    def branch(self, words: Int[Array, " T"]) -> Float[Array, "T M"] | None:
        """By the model's own call."""
        found = self.model.branch(self._here(words))
        return None if found is None else self._given(found)

    @torch.inference_mode()
    def attention(self, text: Float[Array, "R M"], image: Float[Array, "R F"]) -> Float[Array, "R K"] | None:
        """By the model's own call."""
        found = self.model.attention(self._here(text), self._here(image))
        return None if found is None else self._given(found)


class _Scorer:
    """Log-probabilities of chosen next words.

    Args:
        model: In evaluation mode.
        dtype: In which the normaliser's product is taken; nothing else is rounded.
    """

    def __init__(self, model: NeuralLanguageModel, dtype: torch.dtype):
        self.model = model
        self.weight, self.bias = model.softmax_layer()
        self.rounded = self.weight.detach().to(dtype)
        # Used again for every block: fresh memory would cost as much time as the product.
        self.product = torch.empty(0, dtype=dtype, device=self.weight.device)
        self.logits = torch.empty(0, device=self.weight.device)

    def __call__(self, text: Tensor, image: Tensor, row: Tensor, target: Tensor) -> Float[Tensor, " E"]:
        hidden = self.model.fuse(text, image)
        if self.rounded.dtype == torch.float32:  # the word's logit is the one in the normaliser
            return self._log_softmax(hidden)[row, target]
        return self._asked(hidden, row, target) - self._log_normaliser(hidden)[row]

    def _asked(self, hidden: Float[Tensor, "R H"], row: Tensor, target: Tensor) -> Float[Tensor, " E"]:
        """Logits of the words asked: by one product if a few words are asked of all rows, else each by itself."""
        words, column = torch.unique_consecutive(target, return_inverse=True)
        if len(words) * len(hidden) <= 4 * len(target):
            return torch.addmm(self.bias[words], hidden, self.weight[words].t())[row, column]
        # index_select takes a quarter of the time of hidden[row].
        return hidden.index_select(0, row).mul_(self.weight.index_select(0, target)).sum(-1) + self.bias[target]

    def _log_normaliser(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, " R"]:
        logits = self._logits(hidden)
        first = logits[:, 0].clone()
        # log_softmax is one fused pass, PyTorch's logsumexp three: the normaliser is read off its first column.
        return first - torch.log_softmax(logits, -1, out=logits)[:, 0]

    def _log_softmax(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        logits = self._logits(hidden)
        return torch.log_softmax(logits, -1, out=logits)

    def _logits(self, hidden: Float[Tensor, "R H"]) -> Float[Tensor, "R V"]:
        shape = (len(hidden), len(self.bias))
        product, logits = self.product.resize_(shape), self.logits.resize_(shape)
        if product.dtype == torch.float32:
            return torch.addmm(self.bias, hidden, self.rounded.t(), out=logits)
        torch.mm(hidden.to(product.dtype), self.rounded.t(), out=product)
        return logits.copy_(product).add_(self.bias)
