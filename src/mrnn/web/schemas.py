"""What the API answers, as JSON."""

from pydantic import BaseModel, Field

CONFIDENCE = Field(description="how far the sentence can be trusted, 0 to 1; null if the model does not know")
GUESS = Field(description="whether it is no more than a guess")


class Token(BaseModel):
    """A word of a caption."""

    token: str
    log_probability: float


class CaptionOut(BaseModel):
    """A caption of a photo."""

    text: str
    log_likelihood: float = Field(description="log P(sentence | photo), natural logarithm, end sign included")
    confidence: float | None = CONFIDENCE
    tokens: list[Token]


class CaptionsOut(BaseModel):
    """The captions of a photo, best first."""

    captions: list[CaptionOut]
    confidence: float | None = CONFIDENCE
    guess: bool = GUESS
    note: str


class RankedOut(BaseModel):
    """A sentence and how well it fits."""

    sentence: str
    score: float = Field(description="log P(sentence | photo) - prior_weight log P(sentence), the latter estimated")
    confidence: float | None = CONFIDENCE


class WordOut(BaseModel):
    """What a word rests on."""

    token: str
    log_probability: float
    evidence: float = Field(description="bits that the photo adds")
    branches: dict[str, float]
    heat: list[list[float]] | None
    attention: list[float] | None


class ExplanationOut(BaseModel):
    """What a caption rests on."""

    text: str
    percentile: float
    confidence: float | None = CONFIDENCE
    guess: bool = GUESS
    note: str
    words: list[WordOut]


class FoundOut(BaseModel):
    """A photo that a search found."""

    id: str
    name: str
    score: float
    caption: str
    taken: str
    taken_from: str = Field(description="said by EXIF, XMP, IPTC, GPS, PNG, name, Takeout, file; empty if not known")
    confidence: float | None = CONFIDENCE
    guess: bool = GUESS


class SearchOut(BaseModel):
    """What a search found, best first."""

    photos: list[FoundOut]
    left_out: int = Field(0, description="photos ranked that speak against the sentence; `all` gives them too")
    unknown: list[str] = Field([], description="words of the sentence that the model does not know")


class IndexOut(BaseModel):
    """Where indexing stands."""

    photos: int
    running: bool
    done: int
    total: int
    errors: int
