"""The npm package onnxruntime-web: one version, checked, kept in the user's cache."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import tarfile
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from quantsam.errors import EngineError, InputError, OutputError, first_line
from quantsam.files import atomic_write, expanded
from quantsam.places import cache_folder
from quantsam.progress import Progress

NAME, VERSION = "onnxruntime-web", "1.27.0"
ADDRESS = f"https://registry.npmjs.org/{NAME}/-/{NAME}-{VERSION}.tgz"
SHA512 = "ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBWD6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg=="
FILES = {
    "ort.wasm.min.mjs": "9608e98a3fba9716f0cbd0bca0c94808b71dae2e9265ca3fe742ddc393a53ebc",
    "ort-wasm-simd-threaded.mjs": "0a1e718d99c41b22c21f2520ff4f9e883a6b5533856e398d21816ee8eb8185d3",
    "ort-wasm-simd-threaded.wasm": "d1ab1b94b16a65b29d710d0b587b29e7bed336827577623913479b8afe8113e6",
}
"""What of the package is used, with its SHA-256: WebAssembly with SIMD and threads, without WebGPU."""

SIZE_BYTES = 13_554_227
"""Of these files together."""

LICENSE = """ONNX Runtime Web (https://github.com/microsoft/onnxruntime), the files in the folder `ort`.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
"""The package says MIT and holds no text; this is the repository's."""

_VARIABLE = "QUANTSAM_CACHE"
_TIMEOUT_S = 20.0  # limit between two pieces of the download
_PIECE = 1 << 20
_MOST_PIECES = 64


def runtime_files(archive: Path | None = None, progress: Progress | None = None) -> dict[str, bytes]:
    """Return the files of `FILES` by name: from an archive, the user's cache, or the npm registry.

    Files that were not in the cache are added to it.

    Args:
        archive: `onnxruntime-web-VERSION.tgz`, for machines without network; used first.
        progress: Wraps the iteration over the pieces of a download.

    Raises:
        InputError: The archive is not the pinned one.
        EngineError: The package is not in the cache and cannot be downloaded.
    """
    folder = _folder()
    if archive is None:
        kept = None if folder is None else _kept(folder)
        if kept is not None:
            return kept
        found = _members(_downloaded(progress))
    else:
        found = _members(_read(archive))
    if folder is not None:
        with suppress(OutputError, OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in found.items():
                with atomic_write(folder / name) as aside:
                    aside.write_bytes(content)
    return found


def _folder() -> Path | None:
    """Return the cache folder; `off` in the variable is ignored, because these files cannot be out of date."""
    named = os.environ.get(_VARIABLE, "off")
    folder = cache_folder(NAME) if named in ("", "off") else expanded(named) / NAME
    return None if folder is None else folder / VERSION


def _kept(folder: Path) -> dict[str, bytes] | None:
    """Return the cached files; None if any is missing or damaged."""
    try:
        found = {name: (folder / name).read_bytes() for name in FILES}
    except OSError:
        return None
    return found if all(_sha256(content) == FILES[name] for name, content in found.items()) else None


def _read(archive: Path) -> bytes:
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise InputError(
            f"onnxruntime-web must be a file that can be read, got {str(archive)!r} ({error.strerror}): it is {ADDRESS}"
        ) from error
    if _sha512(content) != SHA512:
        raise InputError(
            f"onnxruntime-web must be version {VERSION} as npm has it, got {str(archive)!r} with another checksum: "
            f"it is {ADDRESS}"
        )
    return content


def _downloaded(progress: Progress | None) -> bytes:
    try:
        with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT_S) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            pieces = itertools.islice(iter(lambda: answer.read(_PIECE), b""), _MOST_PIECES)
            content = b"".join(progress(pieces, -(-total // _PIECE) or None) if progress else pieces)
    except (OSError, HTTPException, ValueError) as error:  # no network, no such file, or a broken response
        cause = getattr(error, "reason", error)  # urllib wraps the network's error
        reason = first_line(cause) if isinstance(cause, Exception) else str(cause)
        raise EngineError(
            f"{NAME} {VERSION} is not kept here and cannot be downloaded ({reason}): {_REMEDY}"
        ) from error
    if _sha512(content) != SHA512:
        raise EngineError(f"{NAME} {VERSION} must have npm's checksum, got another file from the network: {_REMEDY}")
    return content


_REMEDY = (
    f"download {ADDRESS} elsewhere and pass it once with `quantsam export --engine web --onnxruntime-web FILE.tgz`"
)


def _members(content: bytes) -> dict[str, bytes]:
    """Return the needed files from an archive with the right checksum."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            found[name] = member.read()
    assert all(_sha256(each) == FILES[name] for name, each in found.items())
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha512(content: bytes) -> str:
    return base64.b64encode(hashlib.sha512(content).digest()).decode()
