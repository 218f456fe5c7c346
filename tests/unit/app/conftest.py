"""Fixtures for the local page's server."""

import asyncio
import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from quantsam.app import segmenting
from quantsam.app.catalogue import Catalogue
from quantsam.app.limits import Limits
from quantsam.app.server import Page
from quantsam.data.coco_masks import encode_mask
from quantsam.data.open import open_images
from quantsam.prediction.everything import FoundMask
from quantsam.schemes.load import load_scheme

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def catalogue(tiny, make_tiny):
    """Two tiny models, two schemes."""
    schemes = {name: load_scheme(name) for name in ("int8", "mix-dwsc")}
    source = open_images("scenes:2")
    models = {"tiny": tiny, "other": make_tiny(1)}
    return Catalogue(models, schemes, ("pytorch", "onnxruntime"), dict.fromkeys(models, source))


@pytest.fixture
def serve(catalogue):
    """Serve a page of one's own: serve(catalogue=..., debug=..., **limits)."""
    pages = []

    def make(catalogue=catalogue, *, debug=False, **limits):
        pages.append(Page(catalogue, Limits(**limits), debug=debug))
        return Served(pages[-1])

    yield make
    for page in pages:
        page.worker.stop()


@pytest.fixture
def served(serve):
    return serve()


class Served:
    """A page and a client that is a program, not a browser."""

    def __init__(self, page):
        self.page = page
        self.client = self.new_client()

    def new_client(self):
        return TestClient(self.page.app({"testserver"}))

    def upload(self, pixels):
        """Send an image and return its token."""
        answer = self.client.post("/api/pictures", content=png(pixels))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["picture"])

    def ask(self, token, client=None, **changes):
        """Ask for masks and return all events but the statuses."""
        answer = self.post(token, client, **changes)
        assert answer.status_code == 200, answer.text
        events = [json.loads(line) for line in answer.text.splitlines()]
        return [event for event in events if event["event"] != "status"]

    def save(self, token, **changes):
        """Ask for a file of int8's masks, or those of another `scheme`."""
        asked = {"picture": token, "model": "tiny", "engine": "pytorch", "scheme": "int8", "boxes": [[4, 4, 40, 40]]}
        if "points" in changes or "everything" in changes:
            asked.pop("boxes")
        return self.client.post("/api/save", content=json.dumps(asked | changes), headers=JSON)

    def post(self, token, client=None, **changes):
        asked = {"picture": token, "model": "tiny", "engine": "pytorch", "schemes": ["int8"], "boxes": [[4, 4, 40, 40]]}
        if "points" in changes or "everything" in changes:
            asked.pop("boxes")
        return (client or self.client).post("/api/masks", content=json.dumps(asked | changes), headers=JSON)


def go_away(served, token, *, after=None, reads=False, path="/api/masks", **changes):
    """Ask for masks and close the connection, perhaps after an event; return what was sent until then.

    Without `reads` what the server sends is not even taken, so that its answer never begins.
    """
    asked = {"picture": token, "model": "tiny", "engine": "pytorch", "boxes": [[4, 4, 40, 40]]} | changes
    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    body = [json.dumps(asked).encode()]
    sent = []

    async def receive():
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        if after is not None:
            assert await asyncio.to_thread(after.wait, 30)
        while reads and len(sent) < 2:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message):
        if not reads:
            await asyncio.sleep(0.1)
        sent.append(message)

    asyncio.run(asyncio.wait_for(served.page.app({"testserver"})(scope, receive, send), 60))
    return sent


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def noise():
    """A picture of 48 x 64 pixels; another for each seed."""

    def make(seed=0, shape=(48, 64)):
        return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)

    return make


@pytest.fixture
def five_found(monkeypatch):
    """Let "segment everything" find five masks beside one another, the first one the best."""

    def find(segmenter, image, *_):
        found = []
        for number in range(5):
            box = (8 * number, 0, 8 * number + 8, 16)
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[: box[3], box[0] : box[2]] = True
            found.append(FoundMask(encode_mask(mask), 128, box, 0.9 - 0.1 * number, 1.0, (0.0, 0.0), (0, 0, 64, 48)))
        return found

    monkeypatch.setattr(segmenting.ModelSegmenter, "segment_everything", find)


@pytest.fixture
def held(monkeypatch):
    """Hold the worker's thread: `with held(page): ...`."""
    import threading

    @contextmanager
    def hold(page):
        release = threading.Event()
        page.worker.submit(lambda: release.wait(60) and None)
        try:
            yield
        finally:
            release.set()

    return hold
