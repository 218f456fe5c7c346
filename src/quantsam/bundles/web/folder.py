"""The extra files of a web bundle: the page, the runtime, and a sample image."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from importlib import resources

from PIL import Image

from quantsam.data.scenes import SceneDataset
from quantsam.runtime.manifest import DECODER, ENCODER, MANIFEST
from quantsam.runtime.web.package import LICENSE

PAGE = (
    "index.html",
    "style.css",
    "page.js",
    "host.js",
    "stage.js",
    "save.js",
    "segmenter.js",
    "geometry.js",
    "masks.js",
    "sw.js",
)
GRAPH, FILES, EXAMPLE, LICENSE_FILE = "graph.js", "files.js", "example.jpg", "LICENSE-onnxruntime-web.txt"
_EXAMPLE_SEED, _EXAMPLE_NUMBER = 5, 1


def page_files(runtime: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a page by name, without the list of them and without what it reads of a bundle.

    Args:
        runtime: The files from `runtime_files`.
    """
    folder = resources.files(__package__).joinpath("page")
    own = {name: folder.joinpath(name).read_bytes() for name in PAGE}
    own[GRAPH] = resources.files("quantsam.runtime.web").joinpath(GRAPH).read_bytes()  # the engine `web` uses it too
    own |= {f"ort/{name}": content for name, content in runtime.items()}
    return {**own, EXAMPLE: _example(), LICENSE_FILE: LICENSE.encode()}


def list_of_files(page: Mapping[str, bytes], bundle: Mapping[str, bytes]) -> bytes:
    """Return the script that lists the files for the page and its service worker.

    The script's version changes with any file, so a browser with an older cached folder fetches the new one.

    Args:
        page: The files from `page_files`.
        bundle: The bundle's files; of these the page reads both graphs and the manifest.
    """
    served = {name: content for name, content in page.items() if name != LICENSE_FILE}
    served |= {name: bundle[name] for name in (ENCODER, DECODER, MANIFEST)}
    digest = hashlib.sha256()
    for name, content in sorted(served.items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    sizes: dict[str, int | None] = {name: len(content) for name, content in served.items()} | {FILES: None}
    told = json.dumps({"version": digest.hexdigest()[:16], "files": sizes}, indent=1)
    return f"// The files of this folder that the page reads, with their bytes.\n\nself.FOLDER = {told};\n".encode()


def _example() -> bytes:
    picture = SceneDataset(_EXAMPLE_NUMBER + 1, seed=_EXAMPLE_SEED).image(_EXAMPLE_NUMBER)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88)
    return file.getvalue()
