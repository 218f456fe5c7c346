"""Compiled kernels run wherever they are compiled, whatever becomes of their cache."""

import importlib.util
import warnings

import numpy as np
import pytest
from numba.core import caching

from quantsam.notices import Notice
from quantsam.quant import compiled

# Private, and renamed between versions of Numba.
IMPLEMENTATION = getattr(caching, "CacheImpl", None) or caching._CacheImpl
LOCATOR = getattr(caching, "UserProvidedCacheLocator", None) or caching._UserProvidedCacheLocator
SOURCE = "def double(x):\n    for i in range(x.size):\n        x[i] *= 2\n"


@pytest.fixture
def double(tmp_path, monkeypatch):
    """Makes a kernel of a function in a file of its own, as a new process would."""
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    def make():
        spec = importlib.util.spec_from_file_location("module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return compiled.kernel()(module.double)

    return make


def works(kernel):
    x = np.arange(3.0)
    kernel(x)
    return x.tolist() == [0, 2, 4]


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.nb?"))


def test_what_was_compiled_is_found_again(double, tmp_path):
    assert works(double())
    files = kept(tmp_path)
    assert len(files) == 2
    hits = []
    for _ in range(3):  # on a busy machine Numba misses now and then, and compiles again; why was not found
        again = double()
        assert works(again)
        hits.append(sum(again._compiled.stats.cache_hits.values()))
    assert 1 in hits


def test_a_damaged_cache_is_made_anew(double, tmp_path):
    works(double())
    index, data = sorted(kept(tmp_path), key=lambda path: path.suffix, reverse=True)
    for file in (index, data):
        for content in (b"", b"rubbish", file.read_bytes()[:-20]):
            file.write_bytes(content)
            assert works(double())
            assert double()._is_kept
            assert works(fresh := double())
            assert sum(fresh._compiled.stats.cache_hits.values()) == 1  # mended for good


def test_without_a_place_each_process_compiles_anew_and_says_so(double, monkeypatch):
    monkeypatch.setattr(compiled, "cache_folder", lambda _: None)
    monkeypatch.setattr(IMPLEMENTATION, "_locator_classes", [])
    with pytest.warns(Notice, match=r"cannot be kept \(no folder can be written\).*NUMBA_CACHE_DIR"):
        kernel = double()
    assert works(kernel)


def test_a_spare_place_is_as_good_as_the_usual_one(double, monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiled, "cache_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(IMPLEMENTATION, "_locator_classes", [LOCATOR])
    assert works(double())
    assert {path.relative_to(tmp_path).parts[1] for path in kept(tmp_path)} == {"kernels"}
    assert compiled.numba.config.CACHE_DIR == ""  # other functions of this process keep their place


def test_a_full_disk_stops_nothing(double, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    kernel = double()
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    with pytest.warns(Notice, match="cannot be kept .*No space left on device"):
        assert works(kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert works(kernel)  # told once
