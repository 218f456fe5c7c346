"""The routes of the local page."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from quantsam.app.answers import Answers, MaskRequest
from quantsam.app.guard import Guard
from quantsam.app.jobs import AbandonedError, BusyError, Event, Job, Places, Worker
from quantsam.app.limits import Limits
from quantsam.app.pictures import EXAMPLES, Picture, PictureStore, example, example_thumbnail, read_picture
from quantsam.app.requests import check_mask_bytes, parse_request
from quantsam.app.subjects import FP32, Catalogue, Subjects, where
from quantsam.errors import ImageError

PAGE = {
    "/": ("index.html", "text/html"),
    "/app.css": ("app.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/server.js": ("server.js", "text/javascript"),
    "/masks.js": ("masks.js", "text/javascript"),
    "/panels.js": ("panels.js", "text/javascript"),
    "/prompts.js": ("prompts.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""All files there are: what is not named here is not served."""

_EVERYTHING_NANO = {"points_per_side": 16, "min_iou": 0.7, "min_stability": 0.85}  # a toy, less sure of its masks
_EVERYTHING = {"points_per_side": 16, "min_iou": 0.88, "min_stability": 0.95}

_logger = logging.getLogger(__name__)


class Page:
    """The page's server: its routes and what they share.

    Args:
        catalogue: What can be chosen.
        limits: What is accepted and kept.
        debug: Log tracebacks of unexpected errors.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, *, debug: bool = False) -> None:
        self.catalogue, self.limits, self._debug = catalogue, limits, debug
        self.pictures = PictureStore(limits)
        self.worker = Worker(limits.waiting)
        self._answers = Answers(Subjects(catalogue, limits), limits)
        self._uploads = Places(limits.uploads)

    def app(self, hosts: Collection[str], *, any_address: bool = False) -> ASGIApp:
        """Return the ASGI application; see `Guard` for the arguments."""
        routes = [
            *(Route(path, _file(*content)) for path, content in PAGE.items()),
            Route("/api/options", self._options),
            Route("/api/examples/{number:int}", self._thumbnail, methods=["GET"]),
            Route("/api/examples/{number:int}", self._take_example, methods=["POST"]),
            Route("/api/pictures", self._upload, methods=["POST"]),
            Route("/api/pictures/{token}", self._view),
            Route("/api/masks", self._masks, methods=["POST"]),
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
                "models": [
                    {"name": name, "everything": _EVERYTHING_NANO if name.startswith("nano") else _EVERYTHING}
                    for name in catalogue.models
                ],
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
        return self._added(await run_in_threadpool(example, _example_number(request)))

    async def _upload(self, request: Request) -> Response:
        with self._uploads.one():
            content = await self._body(request, self.limits.upload_bytes, "a picture's file")
            try:
                picture = await run_in_threadpool(read_picture, content, self.limits.pixels)
            except ImageError as error:
                raise HTTPException(415, str(error)) from None
        return self._added(picture)

    def _added(self, picture: Picture) -> Response:
        (height, width), (view_height, view_width) = picture.image_hw, picture.view_hw
        found = {"picture": self.pictures.add(picture), "width": width, "height": height}
        return JSONResponse(found | {"view_width": view_width, "view_height": view_height}, 201)

    async def _view(self, request: Request) -> Response:
        return Response(self._picture(request.path_params["token"]).view, media_type="image/jpeg")

    async def _masks(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "the request must have the content type application/json")
        body = await self._body(request, self.limits.json_bytes, "a request")
        asked = parse_request(body, self.catalogue, self.limits)
        picture = self._picture(asked.token)
        check_mask_bytes(asked, picture.image_hw, self.limits)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(tell, self.worker.stopping)
        self.worker.submit(lambda: self._work(asked, picture, job, tell))
        return StreamingResponse(_lines(events, job.abandoned), media_type="application/x-ndjson")

    def _work(self, asked: MaskRequest, picture: Picture, job: Job, tell: Callable[[Event | None], None]) -> None:
        """Do a job, in the worker's thread."""
        try:
            self._answers.answer(asked, picture, job)
            tell({"event": "done"})
        except AbandonedError:
            tell({"event": "error", "error": "the server is stopping"})
        except Exception as error:  # a defect of ours must not end the stream without a word
            _logger.error("unexpected %s in a job", type(error).__name__, exc_info=error if self._debug else None)
            tell({"event": "error", "error": _DEFECT})
        finally:
            tell(None)

    def _picture(self, token: str) -> Picture:
        picture = self.pictures.get(token)
        if picture is None:
            raise HTTPException(404, "the server does not have this picture, or not any more: choose it again")
        return picture

    async def _body(self, request: Request, most: int, name: str) -> bytes:
        """Receive a body, and stop as soon as it is too large or too slow."""
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
            raise HTTPException(400, "the connection was closed") from None
        return bytes(content)


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


async def _lines(events: asyncio.Queue[Event | None], abandoned: threading.Event) -> AsyncIterator[bytes]:
    """Yield events as lines of JSON until there are no more; if the reader goes, the job is abandoned."""
    try:
        while (event := await events.get()) is not None:
            yield json.dumps(event, separators=(",", ":")).encode() + b"\n"
    finally:
        abandoned.set()


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": " ".join(error.detail.split())}, error.status_code, error.headers)


async def _busy(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server is busy: try again in a moment"}, 503, {"Retry-After": "2"})


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": _DEFECT}, 500)
