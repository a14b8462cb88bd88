"""Pipeline = encoder + model + vocabulary: load, caption, score, explain.

Shapes: N images, S sentences, R reference images, F width of an image vector.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrnn.encoders import Encoder, pool_features
from mrnn.encoders.regions import SideBySide
from mrnn.files import first_line
from mrnn.images import ImageError, ImageSource, PreparedPhoto, open_image
from mrnn.runtime import Precision, Runtime
from mrnn.runtime.encoder import encoder_inside
from mrnn.runtime.ensemble import Ensemble
from mrnn.runtime.folder import ModelFolder, copy_folder, find_folder, read_folder
from mrnn.runtime.onnx import Graphs, has_device
from mrnn.shapes import Float
from mrnn.tasks.choice import AMONG, Known, choose, weigh
from mrnn.tasks.confidence import (
    FEWEST,
    GUESS,
    GUESSED_BELOW,
    Confidence,
    fit_confidence,
    good_captions,
)
from mrnn.tasks.consensus import PLAIN, Consensus, ConsensusConfig
from mrnn.tasks.explanation import Explanation, explain, said_of_nearest
from mrnn.tasks.familiarity import Familiarity
from mrnn.tasks.generation import Caption, GenerationConfig, generate
from mrnn.tasks.phrases import Asked, Beginnings, beginnings, say
from mrnn.tasks.retrieval import (
    PRIOR_WEIGHT,
    Match,
    Query,
    Retriever,
    Score,
    encode_sentences,
    first_order,
    pair_log_likelihood,
)
from mrnn.tasks.retrieval.exact import MEMORY
from mrnn.text import Vocabulary, tokenise
from mrnn.workshop import workshop

Hand = Literal["auto", "onnx", "torch"]
AT_ONCE = 32


@dataclass(frozen=True)
class Described:
    """What is said of a photo.

    Args:
        photo: The photo, as it was given.
        captions: Best first; empty if it cannot be used.
        guess: Whether the best is no more than a guess.
        error: Why it cannot be used.
    """

    photo: ImageSource
    captions: tuple[Caption, ...] = ()
    guess: bool = False
    error: ImageError | None = None

    @property
    def note(self) -> str:
        """What people should know of the captions; nothing, mostly."""
        return GUESS if self.guess else ""

    @property
    def confidence(self) -> float | None:
        """Of the best caption."""
        return self.captions[0].confidence if self.captions else None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, of files and answers alike."""
        if self.error is not None:
            return {"error": self.error.reason}
        captions = [c.as_dict() for c in self.captions]
        return {"confidence": self.confidence, "guess": self.guess, "note": self.note, "captions": captions}


class Pipeline:
    """Everything from a photo to words.

    Args:
        model: The language model at use.
        vocabulary: Its words.
        encoder: An encoder, or what gives it when a photo is met.
        generation: How captions are searched for unless a call says otherwise.
        provenance: Recipe, data, code and figures, for the model card.
        references: Image vectors of training photos, over which the sentence prior P(w) is taken.
        distances: How far these are from each other, as `Familiarity` takes it, where it is known.
        described: What the encoder of the training says of itself, where it is not as given.
        folder: Where the model was loaded from.
        fingerprint: SHA-256 over weights and vocabulary, where it is known.
        confidence: How far captions can be trusted, where that was fitted.
    """

    def __init__(
        self,
        model: Runtime,
        vocabulary: Vocabulary,
        encoder: Encoder | Callable[[], Encoder],
        generation: GenerationConfig | None = None,
        provenance: dict[str, Any] | None = None,
        references: Float[np.ndarray, "R F"] | None = None,
        distances: Float[np.ndarray, " R"] | None = None,
        described: dict[str, Any] | None = None,
        folder: Path | None = None,
        fingerprint: str = "",
        confidence: Confidence | None = None,
    ):
        if model.vocabulary != len(vocabulary):
            raise ValueError(f"the model has {model.vocabulary} words, but the vocabulary {len(vocabulary)}")
        self.model, self.vocabulary = model, vocabulary
        self.generation = generation or GenerationConfig()
        self.provenance = provenance or {}
        self.references, self.folder, self._fingerprint = references, folder, fingerprint
        self._encoder, self._distances, self.confidence = encoder, distances, confidence
        self.encoder_description = described or (encoder.describe() if isinstance(encoder, Encoder) else {})

    @cached_property
    def encoder(self) -> Encoder:
        """From photos to features.

        Raises:
            ValueError: It cannot be had, or its weights or preprocessing are not those of the training.
        """
        return self._encoder if isinstance(self._encoder, Encoder) else self._encoder()

    @property
    def centre(self) -> Float[np.ndarray, " F"] | None:
        """b0, mean of the reference images' vectors; None without them."""
        return None if self.references is None else self.references.mean(0)

    def asked(self, sentence: str, centre: Float[np.ndarray, " F"]) -> Asked:
        """Words to search images for, as a phrase if they are few.

        Args:
            sentence: Or phrase.
            centre: b0, the mean of the images' vectors.

        Raises:
            ValueError: It has no word.
        """
        begun = None if self.references is None else lambda: self._beginnings
        return Asked(self.model, self.vocabulary, self.sentence_ids([sentence])[0], centre, begun)

    def say(self) -> list[str]:
        """Sentences about reference images, whose beginnings phrases are scored behind."""
        if self.references is None:
            return []
        said = say(self.model, self.vocabulary, self.references)
        return [" ".join(self.vocabulary.tokens[i] for i in one) for one in said]

    @cached_property
    def _beginnings(self) -> Beginnings:
        said = self.provenance.get("said")  # at the end of its training
        if not (isinstance(said, list) and said and all(isinstance(one, str) for one in said)):
            said = self.say()
        return beginnings(self.model, self.vocabulary, [self.vocabulary.encode(one.split()) for one in said])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights and vocabulary."""
        if self._fingerprint:
            return self._fingerprint
        return workshop("models.saving").fingerprint_of(self.model.model, self.vocabulary)  # ty: ignore[missing-attribute]

    def features(self, images: Sequence[ImageSource] | ImageSource) -> Float[np.ndarray, "N ..."]:
        """Pooled features of photos, or of one.

        Raises:
            ImageError: The first photo that cannot be used.
        """
        features, _, errors = pool_features(self.encoder, list(_several(images)))
        if errors:
            raise errors[0]
        return features

    def options(self, **options: Any) -> GenerationConfig:
        """How to search: the model's own way but for some fields of `GenerationConfig`.

        A beam is made as wide as there are captions asked for.

        Raises:
            ValueError: They contradict each other.
        """
        method = options.get("method", self.generation.method)
        if method == "beam" and "beam" not in options:
            options["beam"] = max(self.generation.beam, options.get("n", 1))
        return replace(self.generation, **options)

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
        return self.caption_features(self.features(images), **options)

    def caption_features(self, features: Float[np.ndarray, "N ..."], **options: Any) -> list[list[Caption]]:
        """`caption` for photos that are encoded already."""
        return self.write(self.model.encode_image(features), self.options(**options))

    def write(
        self, image: Float[np.ndarray, "N F"], config: GenerationConfig, precision: Precision = "auto"
    ) -> list[list[Caption]]:
        """Captions of photos whose image vectors are known: searched for, chosen, and with their confidence.

        Args:
            image: What `model.encode_image` gave of N photos.
            config: How to search and to choose.
            precision: Of the search.

        Raises:
            ValueError: The choice or an image gain needs reference images, and the model has none.
        """
        captions, known = self._chosen(image, config, precision)
        return self._trusted(captions, known) if known else captions

    def trusted(self, image: Float[np.ndarray, "N F"], captions: Sequence[Sequence[Caption]]) -> list[list[Caption]]:
        """Captions with their confidence.

        Args:
            image: What `model.encode_image` gave of N photos.
            captions: Of each.
        """
        known = self._weighed(image, captions) if self.confidence is not None and self.references is not None else None
        return self._trusted(captions, known) if known else [list(several) for several in captions]

    def _weighed(self, image: Float[np.ndarray, "N F"], captions: Sequence[Sequence[Caption]]) -> list[list[Known]]:
        assert self.references is not None
        ids = [[self.vocabulary.encode(caption.tokens) for caption in several] for several in captions]
        return weigh(self.model, self.vocabulary, image, ids, self.references)

    def _chosen(
        self, image: Float[np.ndarray, "N F"], config: GenerationConfig, precision: Precision = "auto"
    ) -> tuple[list[list[Caption]], list[list[Known]] | None]:
        """Captions, and what is known of them where the choice or the confidence needs it."""
        every = replace(config, n=min(config.beam, max(config.n, AMONG))) if config.chooses else config
        if config.chooses and self.references is None:
            raise ValueError("a choice by the prior needs reference images, and this model has none")
        found = generate(self.model, self.vocabulary, image, every, self.centre, precision)
        if self.references is None or not (config.chooses or self.confidence is not None):
            return found, None
        known = self._weighed(image, found)
        return choose(found, known, config) if config.chooses else (found, known)

    def _trusted(self, captions: Sequence[Sequence[Caption]], known: Sequence[Sequence[Known]]) -> list[list[Caption]]:
        if self.confidence is None:
            return [list(several) for several in captions]
        flat = [caption for several in captions for caption in several]
        sure = iter(self.confidence(*_numbers(flat, list(chain.from_iterable(known)))).tolist() if flat else [])
        return [[replace(caption, confidence=next(sure)) for caption in several] for several in captions]

    def confidences(
        self,
        image: Float[np.ndarray, "S F"],
        ids: Sequence[Sequence[int]],
        log_likelihood: Float[np.ndarray, " S"] | None = None,
    ) -> list[float] | list[None]:
        """How far sentences can be trusted, each of its photo.

        Args:
            image: For each sentence what `model.encode_image` gave of its photo.
            ids: S sentences of ids without signs.
            log_likelihood: log P(w | I), if it is known.

        Returns:
            Between 0 and 1; None if the model has no confidence, or no reference images.
        """
        if self.confidence is None or self.references is None or not len(ids):
            return [None] * len(ids)
        if log_likelihood is None:
            pairs = np.arange(len(ids))[:, None].repeat(2, 1)
            sentences = encode_sentences(self.model, self.vocabulary, ids)
            log_likelihood = pair_log_likelihood(self.model, sentences, image, pairs)
        photos, of = np.unique(image, axis=0, return_inverse=True)
        places = [np.flatnonzero(of.ravel() == i).tolist() for i in range(len(photos))]
        found = weigh(self.model, self.vocabulary, photos, [[ids[j] for j in own] for own in places], self.references)
        known = dict(zip(chain.from_iterable(places), chain.from_iterable(found), strict=True))
        tokens = np.array([len(one) + 1 for one in ids])
        return self.confidence(log_likelihood, *_columns([known[j] for j in range(len(ids))]), tokens).tolist()

    def calibrate(self, features: Float[np.ndarray, "N ..."], captions: Sequence[Sequence[str]]) -> None:
        """Fit the confidence on photos that people have described, and that the model was not trained on.

        It stays unknown if these are few, or if no photo has two captions.

        Args:
            features: Of N photos.
            captions: For each its sentences.
        """
        said = [[tokens for caption in several if (tokens := tokenise(caption))] for several in captions]
        usable = [i for i, several in enumerate(said) if several]
        self.confidence = None
        if self.references is None or not self.model.uses_image or len(usable) < FEWEST:
            return
        image = self.model.encode_image(features[usable])
        found, known = self._chosen(image, replace(self.generation, n=1))
        best = [several[0] for several in found]
        facts = [several[0] for several in known or self._weighed(image, found)]
        good = good_captions([caption.tokens for caption in best], [said[i] for i in usable])
        if good is not None:
            self.confidence = fit_confidence(*_numbers(best, facts), good)

    def describe(self, photos: Iterable[ImageSource] | ImageSource, **options: Any) -> Iterator[Described]:
        """Photos in; captions, confidence and errors out, in order, some at a time.

        Args:
            photos: Paths, bytes of files, or PIL images; or one.
            options: As for `caption`; a sample's seed is one more with every photo that can be used.
        """
        rest, config = iter(_several(photos)), self.options(**options)
        self.model.prepare()
        while some := list(islice(rest, AT_ONCE)):
            features, positions, errors = pool_features(self.encoder, some)
            usable = self.describe_features([some[i] for i in positions], features, config)
            known, reasons = dict(zip(positions, usable, strict=True)), iter(errors)
            if config.method == "sample":
                config = replace(config, seed=config.seed + len(positions))
            for position, photo in enumerate(some):
                yield known[position] if position in known else Described(photo, error=next(reasons))

    def describe_features(
        self, photos: Sequence[ImageSource], features: Float[np.ndarray, "N ..."], config: GenerationConfig
    ) -> list[Described]:
        """`describe` for photos that are encoded already."""
        image = self.model.encode_image(features)
        captions = self.write(image, config)
        guesses = self.guesses(image, [several[0].confidence for several in captions])
        return [
            Described(photo, tuple(several), guess)
            for photo, several, guess in zip(photos, captions, guesses, strict=True)
        ]

    def sentence_ids(self, sentences: Sequence[str] | str) -> list[list[int]]:
        """Ids of sentences, or of one, without signs.

        Raises:
            ValueError: A sentence has no word.
        """
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        if other := next((one for one in sentences if not isinstance(one, str)), None):
            raise ValueError(f"a sentence is one text, not {other!r}")
        ids = [self.vocabulary.encode(tokenise(sentence)) for sentence in sentences]
        for sentence, some in zip(sentences, ids, strict=True):
            if not some:
                raise ValueError(f"the sentence {sentence!r} has no word")
        return ids

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of a sentence that the model does not know."""
        known = set(self.vocabulary.tokens)
        return [token for token in dict.fromkeys(tokenise(sentence)) if token not in known]

    @cached_property
    def familiarity(self) -> Familiarity | None:
        """How like the training photos a photo is; None without reference images."""
        return None if self.references is None else Familiarity(self.references, self._distances)

    def guesses(self, image: Float[np.ndarray, "N F"], confidences: Sequence[float | None]) -> list[bool]:
        """What is no more than a guess: of low confidence, or of a photo unlike those of the training if it has none.

        Args:
            image: What `model.encode_image` gave of N photos.
            confidences: Of what is said of each.
        """
        found = [sure is not None and sure < GUESSED_BELOW for sure in confidences]
        unknown = [i for i, sure in enumerate(confidences) if sure is None]
        if unknown and self.familiarity is not None:
            for i, unfamiliar in zip(unknown, self.familiarity.unfamiliar(image[unknown]), strict=True):
                found[i] = unfamiliar
        return found

    def explain(
        self,
        image: ImageSource,
        sentence: str | None = None,
        training: tuple[Float[np.ndarray, "N ..."], Sequence[Sequence[str]]] | None = None,
    ) -> Explanation:
        """What each word of a caption rests on: see `mrnn.tasks.explanation`.

        Args:
            image: A photo; of one that was prepared the boxes are not looked for.
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
        pooled = features.pooled
        if sentence is None:
            sentence = self.caption_features(pooled)[0][0].text
        ids = self.sentence_ids([sentence])[0]
        b = self.model.encode_image(pooled)[0]
        support: tuple[str, ...] = ()
        if training is not None:
            known = self.model.encode_image(training[0])
            support = said_of_nearest(b, known, training[1], ids, self.vocabulary)
        words = explain(self.model, self.vocabulary, ids, b, self.references, self._cells(pooled, features.grid))
        boxes = None
        if self.model.uses_regions:
            given = features.boxes
            looked_for = given is None and not isinstance(image, PreparedPhoto)
            boxes = None if given is None else given[0]
            if looked_for:
                boxes = self.encoder.boxes(open_image(image, tolerant=self.encoder.tolerant))
            boxes = None if boxes is None else boxes[1:]  # attention is paid to regions; the whole is always seen
        said = np.array([sum(word.log_probability for word in words)])
        (sure,) = self.confidences(b[None], [ids], said)
        (guess,) = self.guesses(b[None], [sure])
        percentile = float(self.familiarity.percentile(b[None])[0])
        return Explanation(sentence, words, percentile, support, boxes, sure, guess)

    def _cells(
        self, pooled: Float[np.ndarray, "1 ..."], grid: Float[np.ndarray, "1 H W D"] | None
    ) -> Float[np.ndarray, "H W F"] | None:
        """One image vector a grid cell; None where features are no means of cells."""
        if grid is None:
            return None
        # Where features are means of cells, b is the mean of the vectors that the cells alone would give.
        flat = grid[0].reshape(-1, grid.shape[3])
        shares = self.encoder.cell_shares(*grid.shape[1:3])
        means, given = shares @ flat, pooled.reshape(-1, pooled.shape[-1])
        if means.shape != given.shape or not np.allclose(means, given, 1e-3, 1e-3):
            return None
        own = len(flat) * shares.T[..., None] * flat[:, None]
        cells = self.model.encode_cells(own if self.model.uses_regions else own[:, 0])
        return cells.reshape(*grid.shape[1:3], -1)

    def consensus(
        self,
        features: Float[np.ndarray, "N ..."],
        captions: Sequence[Sequence[str]],
        config: ConsensusConfig = PLAIN,
    ) -> Consensus:
        """What was said of training photos, to re-rank captions by.

        Args:
            features: Of N training photos.
            captions: For each of them its captions.
            config: How to re-rank.
        """
        image = self.model.encode_image(features)
        said = [[tokenise(caption) for caption in several] for several in captions]
        vectors = None
        if config.temperature is not None:
            sentences = [self.vocabulary.encode(tokens) for several in said for tokens in several]
            vectors = first_order(self.model, self.vocabulary, sentences, image.mean(0)).vectors
        return Consensus(image, said, config, vectors)

    def retriever(
        self, features: Float[np.ndarray, "N ..."], sentences: Sequence[str] | str, **options: Any
    ) -> Retriever:
        """A `Retriever` over photos that are encoded already; options are its own.

        Raises:
            ValueError: The model does not look at the image, or a sentence has no word.
        """
        if not self.model.uses_image:
            raise ValueError(f"{self.model.name} does not look at the image, so it cannot tell which fits a sentence")
        ids = self.sentence_ids(sentences)
        image = self.model.encode_image(features)
        return Retriever(self.model, self.vocabulary, image, ids, self.references, **options)

    def log_likelihood(
        self,
        images: Sequence[ImageSource] | ImageSource,
        sentences: Sequence[str] | str,
        precision: Precision = "float32",
        memory: int = MEMORY,
    ) -> Float[np.ndarray, "N S"]:
        """Log P(sentence | image) of every pair: natural logarithm, end sign included.

        Args:
            images: Photos, or one.
            sentences: Sentences, or one, of any words; those not known count as the unknown sign.
            precision: Of the softmax's normaliser; `auto` may round where that is faster.
            memory: Bytes that may be held besides the result.

        Raises:
            ImageError: A photo cannot be used.
            ValueError: A sentence has no word.
        """
        return self.retriever(self.features(images), sentences, precision=precision, memory=memory).exact("raw")

    def rank(
        self,
        images: Sequence[ImageSource] | ImageSource,
        sentences: Sequence[str] | str,
        query: Query = "image",
        top: int = 10,
        score: Score | None = None,
        shortlist: int | None = None,
        prior_weight: float = PRIOR_WEIGHT,
    ) -> list[list[Match]]:
        """Rank sentences for every image, or images for every sentence.

        Args:
            images: Photos, or one.
            sentences: Sentences, or one.
            query: `image` ranks sentences for images, `sentence` images for sentences.
            top: Candidates to return.
            score: `raw`, `normalised`, `per-token` or `posterior`; by default `normalised` for an image's
                sentences and `raw` for a sentence's images.
            shortlist: Score exactly only so many candidates that first-order scores choose; all if None.
            prior_weight: a of the normalised score, log P(w | I) - a log P(w).

        Returns:
            For every query its best candidates, best first.

        Raises:
            ImageError: A photo cannot be used.
            ValueError: A sentence has no word, the score needs reference images that the model lacks, or the prior's
                weight is not between 0 and 2.
        """
        retriever = self.retriever(self.features(images), sentences, prior_weight=prior_weight)
        return retriever.matches(query, top, score, shortlist)

    def score_pairs(
        self,
        features: Float[np.ndarray, "N ..."],
        images: Sequence[int],
        sentences: Sequence[str],
        prior_weight: float = PRIOR_WEIGHT,
    ) -> list[dict[str, float | None]]:
        """A caption's worth: how well each sentence fits its photo, without references to compare it with.

        Args:
            features: Of N photos.
            images: For each sentence the row of its photo.
            sentences: Sentences.
            prior_weight: a of the normalised score.

        Returns:
            For each sentence `raw`, log P(w | I) in nats, `normalised`, log P(w | I) - a log P(w) with the P(w) of
            `fast_sentence_prior`, None if the model has no reference images, both in bits a token, `prior`,
            log P(w), or None, and `confidence`, or None.

        Raises:
            ValueError: A sentence has no word, or the prior's weight is not between 0 and 2.
        """
        retriever = self.retriever(features, sentences, prior_weight=prior_weight)
        pairs = np.stack([np.array(list(images), np.int64), np.arange(len(sentences))], 1)
        raw = pair_log_likelihood(self.model, retriever.sentences, retriever.image, pairs)
        bits = 1 / (math.log(2) * retriever.sentences.tokens)
        columns: dict[str, list[float | None]] = {"raw": raw.tolist(), "raw_bits": (raw * bits).tolist()}
        prior = retriever.prior
        none: list[float | None] = [None] * len(raw)
        worth = None if prior is None else raw - prior_weight * prior
        columns["normalised"] = none if worth is None else worth.tolist()
        columns["normalised_bits"] = none if worth is None else (worth * bits).tolist()
        columns["prior"] = none if prior is None else prior.tolist()
        columns["confidence"] = list(self.confidences(retriever.image[pairs[:, 0]], retriever.ids, raw))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def save(self, folder: Path | str, dtype: Any = None, name: str = "") -> list[str]:
        """Write the folder of the model.

        One that was loaded without PyTorch is copied.

        Args:
            folder: Of the model.
            dtype: PyTorch's, of the weights; float32 if None.
            name: What its card tells people to load; the folder's own name if empty.

        Returns:
            What of it cannot be used without PyTorch, and why; usually nothing.

        Raises:
            ValueError: It is an ensemble, or PyTorch is needed and not installed.
        """
        if self.folder is not None and dtype is None:
            copy_folder(self.folder, Path(folder), name)
            return []
        saving = workshop("models.saving")
        return saving.save(self, Path(folder), *([] if dtype is None else [dtype]), name=name)

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


def _columns(known: Sequence[Known]) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Priors, and agreements."""
    return np.array([fact.prior for fact in known]), np.array([fact.agreement for fact in known])


def _numbers(captions: Sequence[Caption], known: Sequence[Known]) -> tuple[np.ndarray, ...]:
    """What a confidence is made of, each (S,): log-likelihoods, priors, agreements, tokens."""
    likely = np.array([caption.log_likelihood for caption in captions])
    return likely, *_columns(known), np.array([len(caption.log_probabilities) for caption in captions])


def load(name: Path | str = "base", runtime: Hand = "auto", device: str = "auto") -> Pipeline:
    """Load a model.

    Args:
        name: A bundled model (`base`, `flickr8k`), a folder, or a hub name (`owner/model`); several joined by `+`
            for an ensemble of models with one vocabulary.
        runtime: `onnx` uses it by ONNX Runtime, `torch` by PyTorch; `auto` by the former if the folder has its graphs
            and ONNX Runtime the device.
        device: Where: `cpu`, `cuda`, `mps`, or `auto` for a graphics card if the runtime can use one.

    Raises:
        ValueError: There is no such model, or its folder is incomplete or damaged; the message says which.
    """
    if "+" in str(name) and not Path(name).exists():
        return _ensemble(str(name), runtime, device)
    return _load(read_folder(find_folder(name)), runtime, device)


def _load(found: ModelFolder, runtime: Hand, device: str) -> Pipeline:
    generation = _generation(found)
    if runtime not in ("auto", "onnx", "torch"):
        raise ValueError(f"no runtime {runtime!r}; there are auto, onnx, torch")
    if runtime == "torch" or (runtime == "auto" and _needs_torch(found, device)):
        place = workshop("models.devices").torch_device(device)
        model, encoder = workshop("models.saving").load_torch(found, place)
    else:
        graphs = None if found.tables else Graphs(found.path, device)
        model = found.runtime(graphs)
        encoder = _encoder_of(found, graphs, device)
    try:
        references, distances = found.references(model.image_width) or (None, None)
        return Pipeline(
            model,
            found.vocabulary,
            encoder,
            generation,
            {key: value for key, value in found.provenance.items() if key != "fingerprint"},
            references,
            distances,
            {key: value for key, value in found.encoder.items() if key not in ("fingerprint_at_use", "sealed")},
            found.path if found.format > 1 else None,
            found.provenance.get("fingerprint", ""),
            None if found.confidence is None else Confidence(**found.confidence),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found.path}: {first_line(error)}") from None


def _needs_torch(found: ModelFolder, device: str) -> bool:
    """Whether a model has no graphs, or PyTorch alone has the device."""
    if found.use is None or found.tables or has_device(device):
        return found.use is None
    try:
        workshop("models.devices").torch_device(device)
    except ValueError:  # nor has PyTorch, or it is not installed
        return False
    return True


def _several(photos: Any) -> Iterable[ImageSource]:
    """Photos as they were given; one that was given alone as several."""
    one = isinstance(photos, (str, bytes, bytearray, memoryview)) or hasattr(photos, "read")
    if one or not isinstance(photos, Iterable) or (isinstance(photos, np.ndarray) and photos.ndim < 4):
        return [photos]
    return photos


def _generation(found: ModelFolder) -> GenerationConfig:
    try:
        return GenerationConfig(**found.generation)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found.path}/config.json: {error}") from None


def _encoder_of(found: ModelFolder, graphs: Graphs | None, device: str) -> Callable[[], Encoder]:
    if found.encoder_inside:
        return lambda: encoder_inside(found, graphs or Graphs(found.path, device))
    return lambda: workshop("models.saving").outside(found)


def _ensemble(name: str, runtime: Hand, device: str) -> Pipeline:
    folders = [read_folder(find_folder(part)) for part in name.split("+")]
    members = [_load(found, runtime, device) for found in folders]
    # The member that sees regions sees the whole photo too, so its encoder serves all.
    first = max(members, key=lambda member: member.model.uses_regions)
    if any(member.vocabulary.tokens != first.vocabulary.tokens for member in members):
        raise ValueError(f"{name}: the members of an ensemble need the same vocabulary")
    marks = [found.encoder_mark for found in folders]
    whole = first.encoder_description["name"]

    def seen_by_first(i: int) -> bool:
        within = first.model.uses_regions and whole.endswith(f":{folders[i].encoder['name']}")
        return marks[i] == marks[members.index(first)] or within

    shared = all(map(seen_by_first, range(len(members))))
    try:
        model = Ensemble([member.model for member in members], shared)
        encoder = first.encoder if shared else SideBySide([member.encoder for member in members])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    references = None
    data = {member.provenance.get("training", {}).get("data_fingerprint") for member in members}
    if len(data) == 1 and all(member.references is not None for member in members):
        # Of the same data the same photos are drawn as references (see `train_recipe`).
        references = np.concatenate([member.references for member in members if member.references is not None], 1)
    generation = first.generation
    if references is None:
        # There is no mean image to stress a photo against, and no prior.
        generation = replace(generation, image_gain=1.0, prior_weight=0.0, agreement=0.0)
    digest = "+".join(member.fingerprint for member in members)
    return Pipeline(model, first.vocabulary, encoder, generation, {}, references, fingerprint=digest)
