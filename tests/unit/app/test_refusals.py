"""The local page's server: what it refuses."""

import asyncio
import io
import json
import struct
import zlib

import pytest
from PIL import Image, ImageFile
from starlette.testclient import TestClient

from quantsam.app.limits import VIEW_SIDE, Limits
from quantsam.app.pictures import EXAMPLES

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/pyproject.toml",
        "/..%2fserver.py",
        "/page/index.html",
        "/server.py",
        "/app.css/",
        "/api/pictures/..%2f..%2fapp.css",
        "/api/examples/-1",
    ],
)
def test_only_the_named_files_are_served(served, path):
    answer = served.client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "testserver.evil.example", "", "10.0.0.1", "a@testserver"]
)
def test_another_host_name_is_refused(served, host):
    answer = served.client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "name" in answer.json()["error"]


def test_the_own_name_with_a_port_is_not(served):
    assert served.client.get("/", headers={"host": "TestServer:7860"}).status_code == 200


def test_addresses_do_where_others_may_call(served):
    client = TestClient(served.page.app({"localhost"}, any_address=True))
    assert client.get("/", headers={"host": "192.168.0.7:7860"}).status_code == 200
    assert client.get("/", headers={"host": "[fe80::1]:7860"}).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://testserver:81"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 201),
        ({}, 201),
    ],
)
def test_posts_from_other_sites_are_refused(served, noise, headers, status):
    assert served.client.post("/api/pictures", content=_png(noise()), headers=headers).status_code == status
    allowed = 200 if status == 201 else status
    assert served.client.post(f"/api/examples/{EXAMPLES[0]}", headers=headers).status_code == allowed


def test_every_answer_has_the_headers_of_safety(served):
    answers_ = [served.client.get("/"), served.client.get("/none"), served.client.get("/", headers={"host": "x"})]
    for answer in answers_:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("announced", "most"), [([(b"content-length", b"1001")], 0), ([], 11)])
def test_too_large_a_file_is_refused_by_its_announcement_and_on_its_way(serve, announced, most):
    received, sent = [], []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/pictures", "query_string": b""}
    headers = [(b"host", b"testserver"), *announced]
    asyncio.run(serve(upload_bytes=1000).page.app({"testserver"})(scope | {"headers": headers}, receive, send))
    assert sent[0]["status"] == 413
    assert b"0.001 MB" in sent[1]["body"]
    assert len(received) == most


def test_a_file_of_just_the_limit_is_read(serve):
    served = serve(upload_bytes=1000)
    assert served.client.post("/api/pictures", content=b"x" * 1000).status_code == 415
    assert served.client.post("/api/pictures", content=b"x" * 1001).status_code == 413


def test_a_pixel_bomb_is_not_decoded(serve, monkeypatch):
    served = serve(pixels=1_000_000)
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    answer = served.client.post("/api/pictures", content=_bomb(1001, 1000))
    assert answer.status_code == 415
    assert "1001 x 1000 pixels: an image may have at most 1,000,000" in answer.json()["error"]
    assert decoded == []


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"<svg></svg>", "an SVG drawing"), (b"%!PS-Adobe", "PostScript")]
)
def test_what_is_no_picture_is_refused(served, content, word):
    answer = served.client.post("/api/pictures", content=content)
    assert answer.status_code == 415
    assert word in answer.json()["error"]


def test_a_damaged_picture_is_refused(served, noise):
    answer = served.client.post("/api/pictures", content=_png(noise())[:900])
    assert answer.status_code == 415
    assert "damaged" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"boxes": [[NaN, 0, 1, 1]]}', 400),
        (b"[" * 50_000, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"{}", 422),
        (b'{"x": 1}', 422),
    ],
)
def test_garbage_is_refused(served, body, status):
    answer = served.client.post("/api/masks", content=body, headers=JSON)
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({"model": "l0"}, 400, "no model 'l0'"),
        ({"schemes": ["int9"]}, 400, "no scheme 'int9'"),
        ({"engine": "tensorrt"}, 400, "no engine"),
        ({"model": 3}, 422, "model must be a string"),
        ({"schemes": [["int8"]]}, 422, "scheme must be a string"),
        ({"schemes": ["int8", "int8"]}, 422, "differ"),
        ({"schemes": ["int8", "mix-dwsc", "int8"]}, 422, "schemes must be a list of at most 2 entries, got 3"),
        ({"boxes": [[0, 0, 10]]}, 422, "4 numbers"),
        ({"boxes": [[0, 0, 10, True]]}, 422, "4 numbers"),
        ({"boxes": [[0, 0, 10, "9"]]}, 422, "4 numbers"),
        ({"boxes": [[0, 0, 10, 1e999]]}, 400, "JSON"),
        ({"boxes": [[0, 0, 10, 10**40]]}, 422, "4 numbers"),
        ({"boxes": [[0, 0, 10, 10]] * 65}, 422, "at most 64"),
        ({"boxes": [[10, 0, 5, 9]]}, 422, "left < right"),
        ({"boxes": [[100, 0, 200, 9]]}, 422, "overlap"),
        ({"boxes": []}, 422, "boxes or points"),
        ({"points": [[1, 1]]}, 422, "labels"),
        ({"points": [[1, 1]], "labels": [2]}, 422, "labels"),
        ({"points": [[64, 1]], "labels": [1]}, 422, "point must lie"),
        ({"points": [[1, 1]], "labels": [0]}, 422, "at least one point"),
        ({"everything": True, "boxes": [[0, 0, 9, 9]]}, 422, "not both"),
        ({"everything": 1}, 422, "true or false"),
        ({"everything": True, "grid": {"points_per_side": 10**6}}, 422, "points_per_side"),
        ({"everything": True, "grid": {"min_iou": 2}}, 422, "min_iou must be a number from 0 to 1, got 2:"),
        ({"everything": True, "grid": {"min_iou": "x"}}, 422, "min_iou must be a number from 0 to 1, got 'x':"),
        ({"everything": True, "grid": {"min_iou": [1]}}, 422, "min_iou must be a number from 0 to 1, got [1]:"),
        ({"everything": True, "grid": {"min_iou": True}}, 422, "min_iou must be a number from 0 to 1, got True:"),
        ({"everything": True, "grid": {"min_stability": -1}}, 422, "min_stability must be a number from 0 to 1"),
        ({"everything": True, "grid": {"crop_layers": 5}}, 422, "unknown key"),
        ({"everything": True, "grid": 7}, 422, "object"),
    ],
)
def test_a_wrong_request_is_refused(served, noise, changes, status, word):
    answer = served.post(served.upload(noise()), **changes)
    assert answer.status_code == status
    assert word in answer.json()["error"]


def test_an_infinite_coordinate_is_refused(served, noise):
    body = json.dumps(
        {"picture": served.upload(noise()), "model": "tiny", "engine": "pytorch", "boxes": [[0, 0, 9, 7]]}
    ).replace("7", "1e999")
    answer = served.client.post("/api/masks", content=body, headers=JSON)
    assert answer.status_code == 422


def test_other_refusals_of_masks(served, noise):
    token = served.upload(noise())
    assert served.post("unknown").status_code == 404
    assert served.client.get("/api/pictures/unknown").status_code == 404
    assert served.client.post("/api/masks", content=b"{}").status_code == 415
    assert served.client.post("/api/masks", content=b" " * 70_000, headers=JSON).status_code == 413
    assert served.client.get("/api/masks").status_code == 405
    assert served.post(token).status_code == 200


def test_boxes_are_bounded_by_the_memory_of_their_masks(serve, noise):
    served = serve(mask_bytes=2 * 48 * 64)
    token = served.upload(noise())
    assert len(served.ask(token, boxes=[[0, 0, 9, 9]] * 2)[0]["masks"]) == 2
    answer = served.post(token, boxes=[[0, 0, 9, 9]] * 3)
    assert answer.status_code == 422
    assert "2 boxes at once" in answer.json()["error"]


def test_the_prompts_limit_is_not_the_schemes_limit(serve, noise):
    served = serve(prompts=1)
    _, *schemes, _ = served.ask(served.upload(noise()), schemes=["int8", "mix-dwsc"])
    assert [panel["name"] for panel in schemes] == ["int8", "mix-dwsc"]


def test_the_grid_is_bounded_by_the_pixels_of_the_view(serve, noise):
    served = serve(grid_pixels=2**2 * 48 * 64)
    token = served.upload(noise())
    assert served.post(token, everything=True, grid={"points_per_side": 2}).status_code == 200
    answer = served.post(token, everything=True, grid={"points_per_side": 3})
    assert answer.status_code == 422
    assert "points_per_side may be at most 2, got 3" in answer.json()["error"]


def test_sams_own_grid_may_be_asked_on_the_largest_view():
    assert Limits().grid_pixels == 32**2 * VIEW_SIDE**2


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _bomb(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
