"""Pipeline = encoder + model + vocabulary: load, caption, score, save.

A saved model is a folder: `model.safetensors`, `config.json`, `vocab.txt`, `README.md`, and the image vectors of
reference training photos, `references.safetensors`. Nothing is ever unpickled.

Shapes: N images, S sentences, R reference images, D feature width, M multimodal width.
"""

import hashlib
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import mrnn
from mrnn.consensus import PLAIN, Consensus, ConsensusConfig
from mrnn.encoders import Encoder, load_encoder, pool_features
from mrnn.encoders.split import Stem, rejoin
from mrnn.explanation import UNFAMILIAR, Explanation, Familiarity, explain, said_of_nearest
from mrnn.files import atomic_path, first_line, read_json, remove_leftovers, write_atomically, write_json
from mrnn.generation import Caption, GenerationConfig, generate
from mrnn.images import ImageSource, Preprocessing, open_image
from mrnn.models import Ensemble, LanguageModel, NeuralLanguageModel, TunedMRNN, build_model, model_name
from mrnn.precision import Precision
from mrnn.retrieval import Match, Query, Retriever, Score, first_order, pair_log_likelihood
from mrnn.retrieval.exact import MEMORY
from mrnn.text import Vocabulary, tokenise

FORMAT = 1
BUNDLED = Path(__file__).parent / "bundled"
REFERENCES = "references.safetensors"
_FILES = ("config.json", "vocab.txt", "model.safetensors")
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Pipeline:
    """Everything from a photo to words.

    Args:
        model: The language model, which is put into evaluation mode.
        vocabulary: Its words.
        encoder: An encoder, or what `Encoder.describe` says of it; that is loaded when a photo is met.
        generation: How captions are searched for unless a call says otherwise.
        provenance: Recipe, data, code and figures, for the model card.
        references: Image vectors of training photos, over which the sentence prior P(w) is taken.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        encoder: Encoder | dict[str, Any],
        generation: GenerationConfig | None = None,
        provenance: dict[str, Any] | None = None,
        references: Float[Tensor, "R M"] | None = None,
    ):
        if model.vocabulary != len(vocabulary):
            raise ValueError(f"the model has {model.vocabulary} words, but the vocabulary {len(vocabulary)}")
        self.model, self.vocabulary = model.eval(), vocabulary
        self.generation = generation or GenerationConfig()
        self.provenance = provenance or {}
        self.references = references
        self._given = encoder if isinstance(encoder, Encoder) else None
        self.encoder_description = encoder.describe() if isinstance(encoder, Encoder) else encoder

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that the model was trained on; of a model that trained its last blocks, with these.

        Raises:
            ValueError: It cannot be had, or its weights or preprocessing are not those of the training.
        """
        encoder = self._given or load_encoder(self.encoder_description["name"])
        if encoder.fingerprint != self.encoder_description["fingerprint"]:
            raise ValueError(
                f"the model was trained on other weights of {encoder.name} than those installed; "
                "its captions would be wrong"
            )
        if Preprocessing.from_dict(self.encoder_description["preprocessing"]) != encoder.preprocessing:
            raise ValueError(f"the model was trained on photos that {encoder.name} was given otherwise")
        if isinstance(self.model, TunedMRNN) and isinstance(encoder, Stem):
            encoder = rejoin(encoder, self.model.tail)
        return encoder.to(self.device)

    @property
    def centre(self) -> Float[Tensor, " M"] | None:
        """Mean of the reference images' vectors; None without them."""
        return None if self.references is None else self.references.mean(0)

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one photo's features."""
        if isinstance(self.model, TunedMRNN):
            return (self.model.features,)
        return tuple(self.encoder_description.get("row", [self.encoder_description["width"]]))

    @property
    def image_width(self) -> int:
        """M, numbers of an image vector."""
        with torch.inference_mode():
            return self.model.encode_image(torch.zeros(1, *self.row, device=self.device)).shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        return next(iter(self.model.buffers())).device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights and vocabulary."""
        digest = hashlib.sha256("\n".join(self.vocabulary.tokens).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(_kept(tensor, torch.float32).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Pipeline":
        """Move model and encoder."""
        self.model.to(device)
        if self.references is not None:
            self.references = self.references.to(device)
        if "encoder" in self.__dict__:
            self.encoder.to(device)
        return self

    def features(self, images: Sequence[ImageSource]) -> Float[Tensor, "N D"]:
        """Pooled features of photos.

        Raises:
            ImageError: The first photo that cannot be used.
        """
        features, _, errors = pool_features(self.encoder, images)
        if errors:
            raise errors[0]
        return features.to(self.device)

    def caption(self, images: Sequence[ImageSource] | ImageSource, **options: Any) -> list[list[Caption]]:
        """Write captions.

        Args:
            images: Photos: paths, bytes of files, or PIL images.
            options: Fields of `GenerationConfig` that differ from the model's own, such as `n=3`.

        Returns:
            For every photo its captions, the best first.

        Raises:
            ImageError: A photo cannot be used.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
            images = [images]
        return self.caption_features(self.features(images), **options)

    def caption_features(self, features: Float[Tensor, "N D"], **options: Any) -> list[list[Caption]]:
        """`caption` for photos that are encoded already."""
        with torch.inference_mode():
            image = self.model.encode_image(features.to(self.device).float())
        return generate(self.model, self.vocabulary, image, replace(self.generation, **options), self.centre)

    def sentence_ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Ids of sentences, without signs.

        Raises:
            ValueError: A sentence has no word.
        """
        ids = [self.vocabulary.encode(tokenise(sentence)) for sentence in sentences]
        for sentence, some in zip(sentences, ids, strict=True):
            if not some:
                raise ValueError(f"the sentence {sentence!r} has no word")
        return ids

    @cached_property
    def familiarity(self) -> Familiarity | None:
        """How like the training photos a photo is; None without reference images."""
        return None if self.references is None else Familiarity(self.references)

    def unfamiliar(self, features: Float[Tensor, "N D"]) -> list[bool]:
        """Which photos are unlike anything the model was trained on; none of them if that cannot be told."""
        if self.familiarity is None:
            return [False] * len(features)
        with torch.inference_mode():
            return self.unfamiliar_images(self.model.encode_image(features.to(self.device).float()))

    def unfamiliar_images(self, image: Float[Tensor, "N M"]) -> list[bool]:
        """`unfamiliar` for image vectors."""
        if self.familiarity is None:
            return [False] * len(image)
        return (self.familiarity.percentile(image) > UNFAMILIAR).tolist()

    def explain(
        self,
        image: ImageSource,
        sentence: str | None = None,
        training: tuple[Float[Tensor, "N D"], Sequence[Sequence[str]]] | None = None,
    ) -> Explanation:
        """What each word of a caption rests on: see `mrnn.explanation`.

        Args:
            image: A photo.
            sentence: The caption; the model's own if None.
            training: Features and captions of training photos, to show what was said of those most like this one.

        Raises:
            ImageError: The photo cannot be used.
            ValueError: The sentence has no word, or the model does not look at images or has no reference images.
        """
        if not self.model.uses_image or self.references is None or self.familiarity is None:
            raise ValueError("an explanation needs a model that looks at the image and has reference images")
        (_, features, errors), *_ = self.encoder.encode([image])
        if errors or features is None:
            raise errors[0]
        pooled, grid = features.pooled.float(), features.grid
        if sentence is None:
            sentence = self.caption_features(pooled)[0][0].text
        ids = self.sentence_ids([sentence])[0]
        with torch.inference_mode():
            b = self.model.encode_image(pooled.to(self.device))[0]
            cells = None
            if grid is not None:
                # Where features are means of cells, b is the mean of the vectors that the cells alone would give.
                flat = grid[0].float().flatten(0, 1).to(self.device)
                shares = self.encoder.cell_shares(*grid.shape[1:3]).to(self.device)
                means, given = shares @ flat, pooled.to(self.device).flatten(0, -2)
                if means.shape == given.shape and torch.allclose(means, given, 1e-3, 1e-3):
                    own = len(flat) * shares.t()[..., None] * flat[:, None]
                    own = own if self.model.uses_regions else own[:, 0]
                    cells = self.model.encode_cells(own).unflatten(0, grid.shape[1:3])
            support: tuple[str, ...] = ()
            if training is not None:
                known = self.model.encode_image(training[0].to(self.device).float())
                support = said_of_nearest(b, known, training[1], ids, self.vocabulary)
        words = explain(self.model, self.vocabulary, ids, b, self.references, cells)
        boxes = None
        if self.model.uses_regions:
            given = features.boxes
            boxes = self.encoder.boxes(open_image(image)) if given is None else given[0].cpu().numpy()
            boxes = boxes[1:]  # the model attends to the regions; the whole photo is always with it
        return Explanation(sentence, words, self.familiarity.percentile(b[None]).item(), support, boxes)

    def consensus(
        self, features: Float[Tensor, "N D"], captions: Sequence[Sequence[str]], config: ConsensusConfig = PLAIN
    ) -> Consensus:
        """What was said of training photos, to re-rank captions by.

        Args:
            features: Of N training photos.
            captions: For each of them its captions.
            config: How to re-rank.
        """
        with torch.inference_mode():
            image = self.model.encode_image(features.to(self.device).float())
        said = [[tokenise(caption) for caption in several] for several in captions]
        vectors = None
        if config.temperature is not None:
            sentences = [self.vocabulary.encode(tokens) for several in said for tokens in several]
            vectors = first_order(self.model, self.vocabulary, sentences, image.mean(0)).vectors
        return Consensus(image, said, config, vectors)

    def retriever(self, features: Float[Tensor, "N D"], sentences: Sequence[str], **options: Any) -> Retriever:
        """A `Retriever` over photos that are encoded already; options are its own.

        Raises:
            ValueError: The model does not look at the image, or a sentence has no word.
        """
        if not self.model.uses_image:
            raise ValueError(
                f"{model_name(self.model.config)} does not look at the image, so it cannot tell which fits a sentence"
            )
        with torch.inference_mode():
            image = self.model.encode_image(features.to(self.device).float())
        ids = self.sentence_ids(sentences)
        return Retriever(self.model, self.vocabulary, image, ids, self.references, **options)

    def log_likelihood(
        self,
        images: Sequence[ImageSource],
        sentences: Sequence[str],
        precision: Precision = "float32",
        memory: int = MEMORY,
    ) -> Float[Tensor, "N S"]:
        """Log P(sentence | image) of every pair: natural logarithm, end sign included.

        Args:
            images: Photos.
            sentences: Sentences of any words; those not known count as the unknown sign.
            precision: Of the softmax's normaliser; `auto` is bfloat16 where it is fast.
            memory: Bytes that may be held besides the result.

        Raises:
            ImageError: A photo cannot be used.
            ValueError: A sentence has no word.
        """
        return self.retriever(self.features(images), sentences, precision=precision, memory=memory).exact("raw")

    def rank(
        self,
        images: Sequence[ImageSource],
        sentences: Sequence[str],
        query: Query = "image",
        top: int = 10,
        score: Score | None = None,
        shortlist: int | None = None,
    ) -> list[list[Match]]:
        """Rank sentences for every image, or images for every sentence.

        Args:
            images: Photos.
            sentences: Sentences.
            query: `image` ranks sentences for images, `sentence` images for sentences.
            top: Candidates to return.
            score: `raw`, `normalised`, `per-token` or `posterior`; by default `normalised` for an image's
                sentences and `raw` for a sentence's images.
            shortlist: Score exactly only so many candidates that first-order scores choose; all if None.

        Returns:
            For every query its best candidates, best first.

        Raises:
            ImageError: A photo cannot be used.
            ValueError: A sentence has no word, or the score needs reference images that the model lacks.
        """
        return self.retriever(self.features(images), sentences).matches(query, top, score, shortlist)

    def score_pairs(
        self, features: Float[Tensor, "N D"], images: Sequence[int], sentences: Sequence[str]
    ) -> list[dict[str, float | None]]:
        """A caption's worth: how well each sentence fits its photo, without references to compare it with.

        Args:
            features: Of N photos.
            images: For each sentence the row of its photo.
            sentences: Sentences.

        Returns:
            For each sentence `raw`, log P(w | I) in nats, `normalised`, log P(w | I) / P(w) with the P(w) of
            `fast_sentence_prior`, None if the model has no reference images, and both in bits a token.
        """
        retriever = self.retriever(features, sentences)
        pairs = torch.stack([torch.tensor(list(images)), torch.arange(len(sentences))], 1)
        raw = pair_log_likelihood(self.model, retriever.sentences, retriever.image, pairs)
        bits = 1 / (math.log(2) * retriever.sentences.tokens.cpu())
        prior = retriever.prior
        normalised = [None] * len(raw) if prior is None else (raw - prior).tolist()
        per_word = [None] * len(raw) if prior is None else ((raw - prior) * bits).tolist()
        return [
            {"raw": a, "normalised": b, "raw_bits": c, "normalised_bits": d}
            for a, b, c, d in zip(raw.tolist(), normalised, (raw * bits).tolist(), per_word, strict=True)
        ]

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32, name: str = "") -> None:
        """Write the folder; each file is replaced as a whole, the weights last.

        Args:
            folder: Of the model.
            dtype: Of the weights.
            name: What its card tells people to load; the folder if empty.

        Raises:
            ValueError: The model is an ensemble.
        """
        if isinstance(self.model, Ensemble):
            raise ValueError("an ensemble is its members; save each of them")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*_FILES, REFERENCES, "README.md"):
            remove_leftovers(folder / file)
        from mrnn.model_card import model_card

        config = {
            "format": FORMAT,
            "encoder": self.encoder_description,
            "model": {"name": model_name(self.model.config), **self.model.describe()},
            "generation": asdict(self.generation),
            **self.provenance,
        }
        self.vocabulary.save(folder / "vocab.txt")
        write_json(folder / "config.json", config)
        card = model_card(name or str(folder), config)
        write_atomically(folder / "README.md", card.encode(errors="backslashreplace"))
        if self.references is None:
            (folder / REFERENCES).unlink(missing_ok=True)
        else:
            with atomic_path(folder / REFERENCES) as temporary:
                save_file({"image": self.references.to("cpu", dtype).contiguous()}, temporary)
        weights = {k: _kept(v, dtype) for k, v in self.model.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file(weights, temporary)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the folder to the Hugging Face hub; options are those of `HfApi.create_repo`.

        Returns:
            The repository's address.

        Raises:
            ValueError: huggingface_hub is not installed.
        """
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise ValueError("the hub needs an extra: pip install 'mrnn[hf]'") from None
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True, **options)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder, name=repository)
            api.upload_folder(repo_id=repository, folder_path=folder)
        return str(address)


def load(name: Path | str = "base", device: torch.device | str = "cpu") -> Pipeline:
    """Load a model.

    Args:
        name: A bundled model (`base`, `flickr8k`), a folder, or a hub name (`owner/model`); several joined by `+`
            for an ensemble of models with one vocabulary and encoder.
        device: Where to put it.

    Raises:
        ValueError: There is no such model, or its folder is incomplete or damaged; the message says which.
    """
    if "+" in str(name) and not Path(name).exists():
        return _ensemble(str(name)).to(device)
    folder = _folder(name)
    for file in _FILES:
        if not (folder / file).is_file():
            if file == "model.safetensors" and (pickles := [p.name for p in folder.iterdir() if p.suffix in _PICKLES]):
                raise ValueError(
                    f"{folder}: holds {pickles[0]}, but a pickle is never loaded; save as model.safetensors"
                )
            raise ValueError(f"{folder}: has no {file}, so it is no saved model")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.pop("format", None) != FORMAT:
        raise ValueError(f"{folder}/config.json: not of format {FORMAT}; another version of mrnn saved this model")
    vocabulary = Vocabulary.load(folder / "vocab.txt")
    try:
        description = dict(config.pop("model"))
        model = build_model(description.pop("name"), description)
        generation = GenerationConfig(**config.pop("generation"))
        encoder = config.pop("encoder")
        row = encoder.get("row", []) if isinstance(encoder, dict) else None
        if not isinstance(row, list) or not all(isinstance(n, int) for n in (encoder["width"], *row)):
            raise ValueError("'encoder' is not what an encoder says of itself")
        if not all(isinstance(encoder[key], str) for key in ("name", "fingerprint")):
            raise ValueError("the encoder's name and fingerprint must be text")
        if encoder["width"] != model.features or (
            row and not isinstance(model, TunedMRNN) and row[-1] != model.features
        ):
            raise ValueError("encoder and model differ in width")
        Preprocessing.from_dict(encoder["preprocessing"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{folder}/config.json: {error}") from None
    _load_weights(model, folder / "model.safetensors")
    try:
        pipeline = Pipeline(model, vocabulary, encoder, generation, config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    pipeline.references = _load_references(pipeline.image_width, folder / REFERENCES)
    return pipeline.to(device)


def _ensemble(name: str) -> Pipeline:
    members = [load(part) for part in name.split("+")]
    # The member that sees regions sees the whole photo too, so its encoder serves all.
    first = max(members, key=lambda member: member.model.uses_regions)
    if any(member.vocabulary.tokens != first.vocabulary.tokens for member in members):
        raise ValueError(f"{name}: the members of an ensemble need the same vocabulary")
    whole = first.encoder_description
    for other in (member.encoder_description for member in members):
        within = first.model.uses_regions and whole["name"].endswith(f":{other['name']}")
        if other["fingerprint"] != whole["fingerprint"] and not within:
            raise ValueError(
                f"{name}: the members of an ensemble need the same encoder, not {whole['name']} and {other['name']}"
            )
    try:
        model = Ensemble([member.model for member in members])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    data = {member.provenance.get("training", {}).get("data_fingerprint") for member in members}
    references = None
    if len(data) == 1 and all(member.references is not None for member in members):
        # Of the same data the same photos are drawn as references (see `train_recipe`).
        references = torch.cat([member.references for member in members if member.references is not None], 1)
    return Pipeline(model, first.vocabulary, first.encoder_description, first.generation, {}, references)


def _folder(name: Path | str) -> Path:
    if isinstance(name, str) and (BUNDLED / name / "config.json").is_file() and name == Path(name).name:
        return BUNDLED / name
    folder = Path(name)
    if folder.is_dir():
        return folder
    bundled = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json")))
    if str(name).count("/") != 1 or folder.is_absolute() or str(name).startswith("."):
        raise ValueError(f"{name}: no such model folder, and none of the bundled models ({bundled})")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ValueError(f"{name}: no such folder; to load it from the hub, pip install 'mrnn[hf]'") from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=[*_FILES, REFERENCES, "README.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{name}: no such folder, and the hub does not give it ({first_line(error)})") from None


def _load_weights(model: LanguageModel, path: Path) -> None:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged weights ({error})") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*expected, *weights]:
        if name not in expected or name not in weights:
            raise ValueError(
                f"{path}: the tensor {name} is {'missing' if name in expected else 'not one of the model'}"
            )
        if tuple(weights[name].shape) != expected[name]:
            raise ValueError(f"{path}: {name} has the shape {tuple(weights[name].shape)}, not {expected[name]}")
        if weights[name].dtype not in _DTYPES:
            raise ValueError(f"{path}: {name} holds {weights[name].dtype}, which no weight is")
        if weights[name].isnan().any() or (isinstance(model, NeuralLanguageModel) and weights[name].isinf().any()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
        if name == "feature_std" and not (weights[name] > 0).all():
            raise ValueError(f"{path}: a feature's deviation is not above 0")
    model.load_state_dict({name: _kept(tensor, torch.float32) for name, tensor in weights.items()})


def _kept(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """On the CPU in one floating type; whole numbers, which n-gram tables hold, stay as they are."""
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()


def _load_references(width: int, path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        image = load_file(path)["image"].float()
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path}: damaged reference images ({error})") from None
    if image.ndim != 2 or not len(image) or image.shape[1] != width or not image.isfinite().all():
        raise ValueError(f"{path}: no reference images of this model")
    return image


def code_version() -> dict[str, str]:
    """The package's version, and the git commit if it runs from a checkout of its own."""
    version = {"version": mrnn.__version__}
    if shutil.which("git"):
        tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)  # it may lie within another project
        if tracked and (commit := _git("describe", "--always", "--dirty", "--abbrev=12")):
            version["commit"] = commit
    return version


def _git(*command: str) -> str:
    """What git answers in the package's folder; nothing if it fails."""
    place = ["git", "-C", str(Path(__file__).parent)]
    return subprocess.run([*place, *command], capture_output=True, text=True, check=False).stdout.strip()
