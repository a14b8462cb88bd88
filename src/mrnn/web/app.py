"""The server: a JSON API under /v1, one static page, and nothing that blocks the event loop.

Photos of the library are served by the hash of their content, never by path, and as fresh JPEGs, so that what a file
holds besides the picture (where it was taken, say) stays where it is.
"""

import asyncio
import contextlib
import hmac
import io
import ipaddress
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field

import mrnn
from mrnn.images import ImageError, open_image, pixels_to_decode
from mrnn.library import Filters, Found, Library, LibraryGone, UnknownPhoto
from mrnn.pipeline import Described, Pipeline
from mrnn.tasks.retrieval import PRIOR_WEIGHT, Match
from mrnn.web.worker import Busy, Worker

_log = logging.getLogger("mrnn.web")
STATIC = Path(__file__).parent / "static"
SHOWN_SIDE = 1600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Args:
        upload: Bytes of a request.
        pixels: Of a photo, as it is decoded: a JPEG may be reduced meanwhile.
        sentences: To rank for a photo.
        characters: Of a sentence.
        line: Requests that may wait for the model.
    """

    upload: int = 25_000_000
    pixels: int = 60_000_000
    sentences: int = 1000
    characters: int = 500
    line: int = 256


class Token(BaseModel):
    """A word of a caption."""

    token: str
    log_probability: float


class CaptionOut(BaseModel):
    """A caption of a photo."""

    text: str
    log_likelihood: float = Field(description="log P(sentence | photo), natural logarithm, end sign included")
    tokens: list[Token]


class CaptionsOut(BaseModel):
    """The captions of a photo, best first."""

    captions: list[CaptionOut]
    familiar: bool = Field(description="whether the photo is like those the model was trained on")
    note: str


class RankedOut(BaseModel):
    """A sentence and how well it fits."""

    sentence: str
    score: float = Field(description="log P(sentence | photo) - prior_weight log P(sentence), the latter estimated")
    familiar: bool


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
    familiar: bool
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
    familiar: bool


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


class _Stopped(Exception):
    """The server ends, and indexing with it."""


class Indexing:
    """Keeps the library up to date with a folder, in a thread of its own, while the server runs.

    Args:
        library: The library.
        folder: To index; None for none.
        interval: Seconds between two looks at it.
    """

    def __init__(self, library: Library | None, folder: Path | None, interval: float = 60):
        self.library, self.folder, self.interval = library, folder, interval
        self.running, self.done, self.total, self.errors = False, 0, 0, 0
        self._stopping, self._problem = asyncio.Event(), ""

    async def run(self) -> None:
        """Index the folder again and again until `stop`."""
        while self.library is not None and self.folder is not None and not self._stopping.is_set():
            self.running = True
            try:
                report = await asyncio.to_thread(self.library.index, self.folder, self._progress)
                self.errors, self._problem = len(report.errors), ""
            except _Stopped:
                return
            except Exception as error:  # a disk that is away for now, say: the server goes on
                if str(error) != self._problem:  # said once, not every interval
                    _log.error("indexing %s: %s", self.folder, error)
                self._problem = str(error)
            finally:
                self.running = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.interval)

    def stop(self) -> None:
        """End `run` after the photo in hand; batches that were committed stay."""
        self._stopping.set()

    def _progress(self, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        self.done, self.total = done, total


def create_app(
    pipeline: Pipeline,
    library: Library | None = None,
    index: Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The server.

    Args:
        pipeline: The model.
        library: Photos that can be searched; None for none.
        index: Folder that the library is kept up to date with while the server runs.
        token: That every request must bear; None for none, and then only requests to this machine by a name of its
            own are answered, so that no page elsewhere can make a browser ask in its name (DNS rebinding).
        limits: What a request may ask for.
    """
    limits = limits or Limits()
    worker = Worker(pipeline, limits.line)
    indexing = Indexing(library, index)
    registry = CollectorRegistry()
    requests = Counter("mrnn_requests", "Requests answered", ["path", "status"], registry=registry)
    seconds = Histogram("mrnn_request_seconds", "Seconds a request took", ["path"], registry=registry)
    Gauge("mrnn_waiting", "Requests that wait for the model", registry=registry).set_function(lambda: worker.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        task = asyncio.create_task(indexing.run())
        yield
        indexing.stop()
        await task
        await asyncio.to_thread(worker.stop)

    bearer = HTTPBearer(auto_error=False)

    def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is not None and not (given and hmac.compare_digest(given.credentials.encode(), token.encode())):
            raise HTTPException(401, "this server wants a token", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="m-RNN", version=mrnn.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    api = APIRouter(dependencies=[Depends(authorised)], responses=_ERRORS)

    @app.middleware("http")
    async def around(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        clock = time.perf_counter()
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdecimal():
            response: Response = JSONResponse({"detail": "a request must tell its length"}, 411)
        elif length.isdecimal() and int(length) > limits.upload:
            response = JSONResponse({"detail": f"more than {limits.upload:,} bytes"}, 413)
        elif token is None and not is_loopback(request.url.hostname or ""):
            response = JSONResponse({"detail": "without a token only this machine's own names are answered"}, 421)
        else:
            response = await call_next(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        requests.labels(path, str(response.status_code)).inc()
        seconds.labels(path).observe(time.perf_counter() - clock)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(ImageError)
    async def bad_photo(request: Request, error: Exception) -> Response:
        assert isinstance(error, ImageError)
        return JSONResponse({"detail": f"the photo {error.reason}"}, 422)

    @app.exception_handler(ValueError)
    async def bad_value(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(UnknownPhoto)
    async def unknown(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "no such photo"}, 404)

    @app.exception_handler(LibraryGone)
    async def gone(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "the library is gone, or is just being made anew"}, 503, {"Retry-After": "5"})

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "too many requests wait; try again soon"}, 429, {"Retry-After": "1"})

    async def photo_of(image: UploadFile) -> bytes:
        content = await image.read()
        await asyncio.to_thread(_check_size, content, pipeline, limits.pixels)
        return content

    def sentence_of(text: str) -> str:
        if len(text) > limits.characters:
            raise ValueError(f"a sentence of more than {limits.characters} characters")
        return text

    def library_or_404() -> Library:
        if library is None:
            raise HTTPException(404, "this server has no photo library")
        return library

    @api.post("/v1/caption")
    async def caption(
        image: Annotated[UploadFile, File()],
        n: Annotated[int, Form(ge=1, le=10)] = 3,
        sample: Annotated[bool, Form()] = False,
        temperature: Annotated[float, Form(ge=0.1, le=2)] = 1.0,
        seed: Annotated[int, Form(ge=0, le=2**31 - 1)] = 0,
    ) -> CaptionsOut:
        """Write captions for a photo."""
        options: dict[str, Any] = {"n": n}
        if sample:
            options = {"method": "sample", "n": n, "temperature": temperature, "seed": seed}
        found: Described = await worker.caption(await photo_of(image), **options)
        return CaptionsOut.model_validate(found.as_dict())

    @api.post("/v1/rank")
    async def rank(
        image: Annotated[UploadFile, File()],
        sentences: Annotated[list[str], Form()],
        prior_weight: Annotated[float, Form(ge=0, le=2)] = PRIOR_WEIGHT,
    ) -> list[RankedOut]:
        """Rank sentences for a photo."""
        lines = [sentence_of(line) for text in sentences for line in text.splitlines() if line.strip()]
        if not 1 <= len(lines) <= limits.sentences:
            raise ValueError(f"give between 1 and {limits.sentences:,} sentences")
        photo = await photo_of(image)

        def run() -> tuple[list[Match], bool]:
            features = pipeline.features([photo])
            retriever = pipeline.retriever(features, lines, prior_weight=prior_weight)
            return retriever.matches("image", len(lines))[0], pipeline.unfamiliar(features)[0]

        matches, guess = await worker.call(run)
        return [RankedOut(sentence=lines[m.index], score=m.score, familiar=not guess) for m in matches]

    @api.post("/v1/explain")
    async def explain(image: Annotated[UploadFile, File()], sentence: Annotated[str, Form()] = "") -> ExplanationOut:
        """Say what each word of a caption rests on: the given one, or the model's own."""
        photo, given = await photo_of(image), sentence_of(sentence) or None
        found = await worker.call(lambda: pipeline.explain(photo, given))
        return ExplanationOut.model_validate(found.as_dict())

    async def search(
        sentence: str | None, like: bytes | str | None, top: int, filters: Filters, everything: bool
    ) -> SearchOut:
        shelf = library_or_404()

        def run() -> list[Found]:
            source = shelf.path_of(like) if isinstance(like, str) else like
            return shelf.search(sentence, source, top, filters)

        found = await worker.call(run)
        fit = found if everything else [f for f in found if f.fits]
        unknown = pipeline.unknown_words(sentence) if sentence is not None else []
        return SearchOut(photos=[_found(f) for f in fit], left_out=len(found) - len(fit), unknown=unknown)

    @api.get("/v1/search")
    async def search_get(
        q: Annotated[str, Query(description="a sentence")] = "",
        like: Annotated[str, Query(description="id of a photo of the library")] = "",
        top: Annotated[int, Query(ge=1, le=500)] = 60,
        after: date | None = None,
        before: date | None = None,
        caption: str = "",
        everything: Annotated[bool, Query(alias="all", description="also photos that speak against it")] = False,
    ) -> SearchOut:
        """Find photos of the library by a sentence, by one of its photos, or by both; by date without either."""
        filters = Filters(None, after, before, caption)
        return await search(sentence_of(q) or None, _checked(like) if like else None, top, filters, everything)

    @api.post("/v1/search")
    async def search_post(
        image: Annotated[UploadFile, File()],
        q: Annotated[str, Form()] = "",
        top: Annotated[int, Form(ge=1, le=500)] = 60,
        everything: Annotated[bool, Form(alias="all")] = False,
    ) -> SearchOut:
        """Find photos of the library that are like a photo, and fit a sentence if there is one."""
        return await search(sentence_of(q) or None, await photo_of(image), top, Filters(), everything)

    @api.get("/v1/thumbnail/{id}", response_class=Response)
    async def thumbnail(id: str) -> Response:
        """The thumbnail of a photo of the library."""
        shelf = library_or_404()
        content = await asyncio.to_thread(shelf.thumbnail_of, _checked(id))
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    @api.get("/v1/photo/{id}", response_class=Response)
    async def photo(id: str) -> Response:
        """A photo of the library, as a JPEG of at most 1600 pixels a side, without its metadata."""
        shelf = library_or_404()
        content = await asyncio.to_thread(_shown, shelf, _checked(id))
        return Response(content, media_type="image/jpeg")

    @api.get("/v1/index")
    async def index_state() -> IndexOut:
        """Where indexing stands."""
        n = 0 if library is None else await asyncio.to_thread(library.__len__)
        return IndexOut(
            photos=n, running=indexing.running, done=indexing.done, total=indexing.total, errors=indexing.errors
        )

    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        """Whether the server answers, and what it is."""
        return {"status": "ok", "version": mrnn.__version__, "model": pipeline.fingerprint[:16]}

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(api)
    for name, kind in (("", "index.html"), ("app.js", "app.js"), ("style.css", "style.css"), ("icon.svg", "icon.svg")):
        app.get(f"/{name}", include_in_schema=False)(_static(STATIC / kind))
    return app


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No token, or a wrong one"},
    404: {"description": "No such photo, or no library"},
    411: {"description": "The request does not tell its length"},
    413: {"description": "The request is too large"},
    421: {"description": "Asked by a name that is not this machine's, without a token"},
    422: {"description": "The photo or another value cannot be used"},
    429: {"description": "Too many requests wait"},
    503: {"description": "The library is gone, or is just being made anew"},
}


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_size(photo: bytes, pipeline: Pipeline, most: int) -> None:
    """Refuse a photo by the size that it would be decoded in; whether it can be is found out when it is."""
    try:
        n = pixels_to_decode(photo, pipeline.encoder.preprocessing.least_side)
    except ImageError:  # the encoder says what is wrong with it
        return
    if n > most:
        raise ImageError("photo", f"has {n:,} pixels to decode, more than the limit of {most:,}")


def _static(path: Path) -> Callable[[], Awaitable[FileResponse]]:
    async def serve() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return serve


def _checked(id: str) -> str:
    """An id as the library gives them: nothing else reaches a query."""
    if not re.fullmatch(r"[0-9a-f]{64}", id):
        raise HTTPException(404, "no such photo")
    return id


def _found(f: Found) -> FoundOut:
    fields = asdict(f)
    return FoundOut(
        name=f.path.name, **{key: fields[key] for key in ("id", "score", "caption", "taken", "taken_from", "familiar")}
    )


def _shown(shelf: Library, id: str) -> bytes:
    image = open_image(shelf.path_of(id), min_side=SHOWN_SIDE, tolerant=True)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()
