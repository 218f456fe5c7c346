"""onnxruntime-web comes from a file, the cache or the network, and is what was pinned."""

import hashlib
import io
import tarfile
import urllib.request
from base64 import b64encode
from urllib.error import URLError

import pytest

from quantsam.errors import EngineError, InputError
from quantsam.runtime.web import package
from quantsam.runtime.web.package import runtime_files

CONTENTS = {name: f"// {name}\n".encode() for name in package.FILES}


def archive_of(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """A small archive that stands for the pinned one, an empty cache, and no network."""
    content = archive_of(CONTENTS)
    monkeypatch.setattr(package, "SHA512", b64encode(hashlib.sha512(content).digest()).decode())
    monkeypatch.setattr(package, "FILES", {name: hashlib.sha256(c).hexdigest() for name, c in CONTENTS.items()})
    monkeypatch.setenv("QUANTSAM_CACHE", str(tmp_path / "cache"))
    network(monkeypatch, URLError(OSError("Network is unreachable")))
    return content


def network(monkeypatch, answer):
    """Answer downloads, or fail; returns the addresses that were asked for."""
    asked = []

    class Answer(io.BytesIO):
        def __init__(self, content):
            super().__init__(content)
            self.headers = {}

    def urlopen(address, timeout):
        asked.append(address)
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_it_is_downloaded_once(archive, monkeypatch):
    asked = network(monkeypatch, archive)
    assert runtime_files() == CONTENTS
    assert runtime_files() == CONTENTS
    assert asked == [package.ADDRESS]


def test_what_is_damaged_in_the_cache_is_fetched_again(archive, monkeypatch, tmp_path):
    asked = network(monkeypatch, archive)
    runtime_files()
    kept = tmp_path / "cache" / package.NAME / package.VERSION / "ort.wasm.min.mjs"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert runtime_files() == CONTENTS
    assert len(asked) == 2


def test_a_file_serves_where_there_is_no_network_and_is_kept(archive, tmp_path):
    file = tmp_path / "package.tgz"
    file.write_bytes(archive)
    with pytest.raises(EngineError) as without:
        runtime_files()
    assert str(without.value) == (
        f"onnxruntime-web {package.VERSION} is not kept here and cannot be downloaded (Network is unreachable): "
        f"download {package.ADDRESS} elsewhere and pass it once with `quantsam export --engine web --onnxruntime-web "
        "FILE.tgz`"
    )
    assert runtime_files(file) == CONTENTS
    assert runtime_files() == CONTENTS


def test_another_file_is_refused(archive, monkeypatch, tmp_path):
    other = archive_of({**CONTENTS, "ort.wasm.min.mjs": b"something else"})
    (tmp_path / "other.tgz").write_bytes(other)
    with pytest.raises(InputError, match=f"must be version {package.VERSION} as npm has it, got .*other.tgz"):
        runtime_files(tmp_path / "other.tgz")
    with pytest.raises(InputError, match=r"must be a file that can be read, got .*missing.tgz"):
        runtime_files(tmp_path / "missing.tgz")
    network(monkeypatch, other)
    with pytest.raises(EngineError, match="must have npm's checksum, got another file from the network"):
        runtime_files()
    assert not (tmp_path / "cache").exists()


def test_the_pinned_runtime_has_no_instructions_that_processors_may_compute_differently(web_runtime):
    """Relaxed SIMD's fused multiplications, 0x105 to 0x108, and its products of integers, 0x111 to 0x113."""
    code = web_runtime["ort-wasm-simd-threaded.wasm"]
    relaxed = [*range(0x105, 0x109), *range(0x111, 0x114)]
    assert [hex(n) for n in relaxed if bytes((0xFD, n & 0x7F | 0x80, n >> 7)) in code] == []
    assert bytes((0xFD, 0xBA, 0x01)) in code  # the exact one that it has: pairs of 16 bits, added in 32


def test_the_pinned_files_are_of_the_size_that_is_told(web_runtime):
    assert sum(map(len, web_runtime.values())) == package.SIZE_BYTES
    assert f"v{package.VERSION}".encode() in web_runtime["ort.wasm.min.mjs"][:200]
