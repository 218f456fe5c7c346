"""The routes of the local page."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from quantsam.app.answers import Answers
from quantsam.app.asked import MaskRequest, SaveRequest
from quantsam.app.candidates import Candidate
from quantsam.app.catalogue import FP32, Catalogue, where
from quantsam.app.guard import Guard
from quantsam.app.jobs import AbandonedError, BusyError, Event, Job, Places, Worker
from quantsam.app.limits import Limits
from quantsam.app.pictures import EXAMPLES, Picture, PictureStore, example_thumbnail, example_token, read_picture
from quantsam.app.quantized import QuantizedModels
from quantsam.app.requests import check_on_picture, parse_request, parse_save, usual_grid
from quantsam.app.saving import KINDS, saved_file
from quantsam.errors import ImageError, QuantsamError

_SCRIPTS = (
    *("app", "asking", "candidates", "changes", "detail", "dom", "draw", "files", "history", "keys", "masks"),
    *("objects", "panels", "picture", "pointer", "prompts", "saving", "server", "show", "state", "zoom"),
)
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.css": ("app.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in _SCRIPTS},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""All files there are: what is not named here is not served."""

_logger = logging.getLogger(__name__)


class Page:
    """The page's server: its routes and what they share.

    Args:
        catalogue: What a user can choose.
        limits: Limits on what is accepted and kept.
        debug: Log tracebacks of unexpected errors.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, *, debug: bool = False) -> None:
        self.catalogue, self.limits, self._debug = catalogue, limits, debug
        self.pictures = PictureStore(limits)
        self.worker = Worker(limits.waiting)
        self._answers = Answers(QuantizedModels(catalogue, limits), limits)
        self._uploads, self._saves = Places(limits.uploads), Places(limits.saves)

    def app(self, hosts: Collection[str], *, any_address: bool = False) -> ASGIApp:
        """Return the ASGI application; see `Guard` for the arguments."""
        routes = [
            *(Route(path, _file(*content)) for path, content in PAGE.items()),
            Route("/api/options", self._options),
            Route("/api/examples/{number:int}", self._thumbnail, methods=["GET"]),
            Route("/api/examples/{number:int}", self._take_example, methods=["POST"]),
            Route("/api/pictures", self._upload, methods=["POST"]),
            Route("/api/pictures/{token}", self._view),
            Route("/api/pictures/{token}/full", self._full),
            Route("/api/masks", self._masks, methods=["POST"]),
            Route("/api/save", self._save, methods=["POST"]),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _refused, BusyError: _busy, Exception: _unexpected},
        )
        app.router.redirect_slashes = False
        return Guard(app, hosts, any_address=any_address, debug=self._debug)

    async def _options(self, request: Request) -> Response:
        catalogue = self.catalogue
        return JSONResponse(
            {
                "models": [{"name": name, "everything": usual_grid(name)} for name in catalogue.models],
                "schemes": [{"name": s.name, "description": s.description} for s in catalogue.schemes.values()],
                "reference": FP32.name,
                "engines": [{"name": name, "where": where(name)} for name in catalogue.engines],
                "examples": list(EXAMPLES),
                "upload_bytes": self.limits.upload_bytes,
                "prompts": self.limits.prompts,
            }
        )

    async def _thumbnail(self, request: Request) -> Response:
        return Response(await run_in_threadpool(example_thumbnail, _example_number(request)), media_type="image/jpeg")

    async def _take_example(self, request: Request) -> Response:
        token = example_token(_example_number(request))
        return _found(token, await self._picture(token))

    async def _upload(self, request: Request) -> Response:
        with self._uploads.one():
            content = await self._body(request, self.limits.upload_bytes, "an image's file")
            try:
                picture = await run_in_threadpool(read_picture, content, self.limits.pixels)
            except ImageError as error:
                raise HTTPException(415, str(error)) from None
        return _found(self.pictures.add(picture), picture, 201)

    async def _view(self, request: Request) -> Response:
        return Response((await self._picture(request.path_params["token"])).view, media_type="image/jpeg")

    async def _full(self, request: Request) -> Response:
        picture = await self._picture(request.path_params["token"])
        with self._saves.one():
            return Response(await run_in_threadpool(picture.full), media_type="image/jpeg")

    async def _save(self, request: Request) -> Response:
        asked = parse_save(await self._request(request), self.catalogue, self.limits)
        picture = await self._picture(asked.masks.token)
        check_on_picture(asked.masks, picture, self.limits)
        with self._saves.one():
            try:
                masks = await self._meant(request, asked, picture)
                content = await run_in_threadpool(saved_file, asked, picture, masks)
            except QuantsamError as error:
                raise HTTPException(422, str(error)) from None
        return Response(content, media_type=KINDS[asked.kind])

    async def _meant(self, request: Request, asked: SaveRequest, picture: Picture) -> list[Candidate]:
        """Make the masks again in the worker's thread. Image and encoder are usually still in memory."""
        job = Job(lambda event: None, self.worker.stopping)
        future = self.worker.submit(lambda: self._answers.meant(asked, picture, job))
        waiting: asyncio.Future[list[Candidate]] = asyncio.wrap_future(future)
        gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())  # the body is read: this is the end
        both: list[asyncio.Future[Any]] = [waiting, gone]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not waiting.done():
            job.abandoned.set()
            waiting.cancel()
            raise HTTPException(400, _CLOSED)
        try:
            return waiting.result()
        except (AbandonedError, asyncio.CancelledError):
            raise HTTPException(503, _STOPPING) from None

    async def _request(self, request: Request) -> bytes:
        """Receive the JSON of a request."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "the request must have the content type application/json")
        return await self._body(request, self.limits.json_bytes, "a request")

    async def _masks(self, request: Request) -> Response:
        body = await self._request(request)
        asked = parse_request(body, self.catalogue, self.limits)
        picture = await self._picture(asked.token)
        check_on_picture(asked, picture, self.limits)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(tell, self.worker.stopping)
        future = self.worker.submit(lambda: self._work(asked, picture, job, tell))

        def abandon() -> None:
            job.abandoned.set()
            future.cancel()  # works while the job waits: others get its place

        return _Events(events, abandon)

    def _work(self, asked: MaskRequest, picture: Picture, job: Job, tell: Callable[[Event | None], None]) -> None:
        """Do a job, in the worker's thread."""
        try:
            self._answers.answer(asked, picture, job)
            tell({"event": "done"})
        except AbandonedError:
            tell({"event": "error", "error": _STOPPING})
        except Exception as error:  # a defect of quantsam must not end the stream silently
            _logger.error("unexpected %s in a job", type(error).__name__, exc_info=error if self._debug else None)
            tell({"event": "error", "error": _DEFECT})
        finally:
            tell(None)

    async def _picture(self, token: str) -> Picture:
        picture = await run_in_threadpool(self.pictures.get, token)  # an example's first use draws it
        if picture is None:
            raise HTTPException(404, "the server does not have this image, or not any more: choose it again")
        return picture

    async def _body(self, request: Request, most: int, name: str) -> bytes:
        """Receive a body; stop as soon as it is too large or too slow."""
        too_large = HTTPException(413, f"{name} may have at most {most / 1e6:g} MB: make it smaller")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > most:
                        raise too_large
        except TimeoutError:
            raise HTTPException(
                408, f"{name} must arrive within {self.limits.upload_seconds:g} seconds: try again"
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, _CLOSED) from None
        return bytes(content)


_CLOSED = "the connection was closed"
_STOPPING = "the server is stopping"
_DEFECT = "unexpected error in the server: start it with --debug to see it in its log"


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (resources.files("quantsam.app") / "page" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _example_number(request: Request) -> int:
    number: int = request.path_params["number"]
    if number not in EXAMPLES:
        raise HTTPException(404, "there is no such example")
    return number


def _found(token: str, picture: Picture, status: int = 200) -> Response:
    (height, width), (view_height, view_width) = picture.image_hw, picture.view_hw
    found = {"picture": token, "width": width, "height": height}
    return JSONResponse(found | {"view_width": view_width, "view_height": view_height}, status)


class _Events(StreamingResponse):
    """Sends events as lines of JSON until there are no more.

    Args:
        events: Queue of events; None is the end.
        on_end: Called when all events are sent or the reader has gone, even before the first line.
    """

    def __init__(self, events: asyncio.Queue[Event | None], on_end: Callable[[], None]) -> None:
        super().__init__(_lines(events), media_type="application/x-ndjson")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _lines(events: asyncio.Queue[Event | None]) -> AsyncIterator[bytes]:
    while (event := await events.get()) is not None:
        yield json.dumps(event, separators=(",", ":")).encode() + b"\n"


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": " ".join(error.detail.split())}, error.status_code, error.headers)


async def _busy(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server is busy: try again in a moment"}, 503, {"Retry-After": "2"})


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": _DEFECT}, 500)
