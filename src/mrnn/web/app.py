"""The server: a JSON API under /v1, one static page, and nothing that blocks the event loop.

Photos of the library are served by the hash of their content, never by path, and as fresh JPEGs, so that what a file
holds besides the picture (where it was taken, say) stays where it is.
"""

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

import mrnn
from mrnn.images import ImageError, PreparedPhoto, open_image, pixels_to_decode
from mrnn.library import Filters, Found, Library, LibraryGone, UnknownPhoto
from mrnn.pipeline import Described, Pipeline
from mrnn.tasks.retrieval import PRIOR_WEIGHT, Match
from mrnn.text import tokenise
from mrnn.threads import cores
from mrnn.web.guard import Guard, Limits
from mrnn.web.indexing import Indexing
from mrnn.web.schemas import CaptionsOut, ExplanationOut, FoundOut, IndexOut, RankedOut, SearchOut
from mrnn.web.worker import Busy, Worker

STATIC = Path(__file__).parent / "static"
SHOWN_SIDE = 1600
SHOWN = ("id", "score", "caption", "taken", "taken_from", "confidence", "guess")
LARGE = 16_000_000  # pixels; of photos with more, one is decoded at a time


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
        token: As for `Guard`.
        limits: What a request may ask for.
    """
    limits = limits or Limits()
    worker = Worker(pipeline, limits.line)
    indexing = Indexing(library, index)
    # Who decodes photos, and large ones. A client that hangs up does not free its thread for the next.
    few, one = ThreadPoolExecutor(cores()), ThreadPoolExecutor(1)
    registry = CollectorRegistry()
    requests = Counter("mrnn_requests", "Requests answered", ["path", "status"], registry=registry)
    seconds = Histogram("mrnn_request_seconds", "Seconds a request took", ["path"], registry=registry)
    Gauge("mrnn_waiting", "Requests that wait for the model", registry=registry).set_function(lambda: worker.waiting)

    def answered(scope: Scope, status: int, took: float) -> None:
        path = getattr(scope.get("route"), "path", "other")
        requests.labels(path, str(status)).inc()
        seconds.labels(path).observe(took)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        task = asyncio.create_task(indexing.run())
        yield
        indexing.stop()
        await task
        for threads in (few, one):
            threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="m-RNN",
        version=mrnn.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # no answer is made of what a Host header says
    )
    app.state.indexing, app.state.guard = indexing, Guard(token, limits, answered)
    app.add_middleware(app.state.guard)
    # The guard looks at the token; that there is one is told to readers of the API here.
    api = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))], responses=_ERRORS)

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

    async def photo_of(request: Request, image: UploadFile) -> PreparedPhoto:
        # Read when its turn has come, so that few whole files are in memory; the model's line holds a few pixels each.
        loop = asyncio.get_running_loop()
        photo = await loop.run_in_executor(few, _prepared, image.file, pipeline, limits.pixels, LARGE)
        if photo is None:
            photo = await loop.run_in_executor(one, _prepared, image.file, pipeline, limits.pixels, limits.pixels)
            assert photo is not None
        await image.close()
        request.state.body.release()
        return photo

    def sentence_of(text: str) -> str:
        if len(text) > limits.characters:
            raise ValueError(f"a sentence of more than {limits.characters} characters")
        if len(tokenise(text)) >= limits.tokens:
            raise ValueError(f"a sentence of more than {limits.tokens - 1} words and signs")
        return text

    def library_or_404() -> Library:
        if library is None:
            raise HTTPException(404, "this server has no photo library")
        return library

    @api.post("/v1/caption")
    async def caption(
        request: Request,
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
        found: Described = await worker.caption(await photo_of(request, image), **options)
        return CaptionsOut.model_validate(found.as_dict())

    @api.post("/v1/rank")
    async def rank(
        request: Request,
        image: Annotated[UploadFile, File()],
        sentences: Annotated[list[str], Form()],
        prior_weight: Annotated[float, Form(ge=0, le=2)] = PRIOR_WEIGHT,
    ) -> list[RankedOut]:
        """Rank sentences for a photo."""
        if sum(map(len, sentences)) > limits.sentences * (limits.characters + 2):
            raise ValueError(f"more than {limits.sentences:,} sentences of {limits.characters} characters")
        given = (line for text in sentences for line in text.splitlines() if line.strip())
        lines = [sentence_of(line) for line in islice(given, limits.sentences + 1)]
        if not 1 <= len(lines) <= limits.sentences:
            raise ValueError(f"give between 1 and {limits.sentences:,} sentences")
        work = sum(len(tokenise(line)) + 1 for line in lines)
        if work > limits.work:
            raise ValueError(f"{work:,} words, signs and ends of sentences, more than the limit of {limits.work:,}")
        photo = await photo_of(request, image)

        def run(model: Pipeline) -> tuple[list[Match], Sequence[float | None]]:
            found = model.retriever(model.features(photo), lines, prior_weight=prior_weight)
            matches, own = found.matches("image", len(lines))[0], found.image.repeat(len(lines), 0)
            return matches, model.confidences(own, found.ids, found.exact("raw")[0])

        matches, sure = await worker.slowly(run)
        return [RankedOut(sentence=lines[m.index], score=m.score, confidence=sure[m.index]) for m in matches]

    @api.post("/v1/explain")
    async def explain(
        request: Request, image: Annotated[UploadFile, File()], sentence: Annotated[str, Form()] = ""
    ) -> ExplanationOut:
        """Say what each word of a caption rests on: the given one, or the model's own."""
        given = sentence_of(sentence) or None
        photo = await photo_of(request, image)
        found = await worker.slowly(lambda model: model.explain(photo, given))
        return ExplanationOut.model_validate(found.as_dict())

    async def prepared(shelf: Library, id: str) -> PreparedPhoto:
        path = await asyncio.to_thread(shelf.path_of, id)
        work = partial(pipeline.encoder.pixels, path)
        return PreparedPhoto(await asyncio.get_running_loop().run_in_executor(one, work))

    async def search(
        sentence: str | None, like: PreparedPhoto | str | None, top: int, filters: Filters, everything: bool
    ) -> SearchOut:
        shelf = library_or_404()

        if isinstance(like, str):
            like = await prepared(shelf, like)
        found: list[Found] = await worker.soon(lambda _: shelf.search(sentence, like, top, filters))
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
        request: Request,
        image: Annotated[UploadFile, File()],
        q: Annotated[str, Form()] = "",
        top: Annotated[int, Form(ge=1, le=500)] = 60,
        everything: Annotated[bool, Form(alias="all")] = False,
    ) -> SearchOut:
        """Find photos of the library that are like a photo, and fit a sentence if there is one."""
        sentence = sentence_of(q) or None
        return await search(sentence, await photo_of(request, image), top, Filters(), everything)

    @api.get("/v1/thumbnail/{id}", response_class=Response)
    async def thumbnail(id: str) -> Response:
        """The thumbnail of a photo of the library."""
        shelf = library_or_404()
        content = await asyncio.to_thread(shelf.thumbnail_of, _checked(id))
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    @api.get("/v1/photo/{id}", response_class=Response)
    async def photo(id: str) -> Response:
        """A photo of the library, as a JPEG of at most 1600 pixels a side, without its metadata."""
        shelf, id = library_or_404(), _checked(id)
        content = await asyncio.get_running_loop().run_in_executor(one, _shown, shelf, id)
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
    400: {"description": "The request can be read in two ways, or not at all"},
    401: {"description": "No token, or a wrong one"},
    403: {"description": "Asked by a page of another origin"},
    404: {"description": "No such photo, or no library"},
    411: {"description": "The request does not tell its length"},
    413: {"description": "The request is too large"},
    415: {"description": "The body is no multipart/form-data"},
    421: {"description": "Asked by a name that is not this machine's, without a token"},
    422: {"description": "The photo or another value cannot be used"},
    429: {"description": "Too many requests wait"},
    503: {"description": "The library is gone or just being made anew, too much is sent at once, or the server stops"},
}


def _prepared(file: BinaryIO, pipeline: Pipeline, most: int, now: int) -> PreparedPhoto | None:
    """A photo as the encoder takes it; None if it has more pixels to decode than may be now.

    Raises:
        ImageError: It cannot be used, or has more pixels to decode than `most`.
    """
    file.seek(0)
    content, n = file.read(), 0
    with contextlib.suppress(ImageError):  # the encoder says what is wrong with it
        n = pixels_to_decode(content, pipeline.encoder.preprocessing.least_side)
    if n > most:
        raise ImageError("photo", f"has {n:,} pixels to decode, more than the limit of {most:,}")
    return None if n > now else PreparedPhoto(pipeline.encoder.pixels(content))


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
    return FoundOut(name=f.path.name, **{key: fields[key] for key in SHOWN})


def _shown(shelf: Library, id: str) -> bytes:
    image = open_image(shelf.path_of(id), min_side=SHOWN_SIDE, tolerant=True)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()
