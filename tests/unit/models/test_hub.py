"""Official checkpoints from the hub: found in its cache, fetched, or a quick line that says why not."""

import re
import time

import pytest
import torch

from quantsam.errors import WeightsError
from quantsam.models import hub
from quantsam.models.hub import HUB_REPOSITORY, download_checkpoint
from quantsam.models.variants import VARIANTS
from quantsam.models.zoo import create_model, load_model
from quantsam.notices import Notice

L0, FILE = VARIANTS["l0"], "efficientvit_sam_l0.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty; nothing beside it."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub, "temporary_folder", lambda: tmp_path / "spare")
    return folder


def answer(monkeypatch, *, metadata=None, download=None):
    """Let the hub's client do as told: raise, or return a path."""
    asked = []

    def fetch(repository, name, cache_dir):
        assert (repository, name) == (HUB_REPOSITORY, FILE)
        asked.append(cache_dir)
        if isinstance(download, Exception):
            raise download
        return str(download)

    def head(url, timeout):
        assert FILE in url
        assert timeout <= 10
        if metadata is not None:
            raise metadata

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", head)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    return asked


def http_error():
    from huggingface_hub.utils import HfHubHTTPError

    error = HfHubHTTPError.__new__(HfHubHTTPError)  # its arguments differ between versions
    error.args = ("\n404 Client Error\n\nEntry Not Found",)
    return error


REMEDY = r"download efficientvit_sam_l0\.pt from huggingface\.co/.* and pass it with --weights efficientvit_sam_l0\.pt$"


@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        ("metadata", OSError(-2, "Name or service not known"), "are not cached and the hub cannot be reached ([Errno"),
        ("metadata", RuntimeError(), "are not cached and the hub cannot be reached (RuntimeError)"),
        ("metadata", None, "cannot be had from the hub ("),
        ("download", OSError(28, "No space left on device"), "cannot be had from the hub ([Errno 28] No space left"),
        ("download", RuntimeError(), "cannot be had from the hub (RuntimeError)"),
    ],
)
def test_a_hub_that_gives_nothing(monkeypatch, stage, error, words):
    answer(monkeypatch, **{stage: error or http_error()})
    with pytest.raises(WeightsError, match=rf"^weights of 'l0' {re.escape(words)}.*{REMEDY}"):
        load_model("l0")


def test_without_a_network_it_takes_a_moment_and_one_line(monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{filename}")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"the hub cannot be reached \(.+\): download"):
        download_checkpoint(L0)
    assert time.monotonic() - started < 15  # its client alone waits 1 + 2 + 4 + 8 + 8 s between tries
    assert capfd.readouterr() == ("", "")


def test_what_was_fetched_once_needs_no_hub(monkeypatch, cache):
    answer(monkeypatch, metadata=AssertionError("asked"))
    folder = cache / f"models--{HUB_REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc" / FILE
    snapshot.parent.mkdir(parents=True)
    snapshot.touch()
    assert download_checkpoint(L0) == snapshot


def test_where_the_cache_cannot_be_written_a_temporary_one_is_used_and_told_of(monkeypatch, cache, tmp_path):
    cache.touch()  # a file: no folder can be made
    asked = answer(monkeypatch, download=tmp_path / FILE)
    with pytest.warns(Notice, match=rf"^weights are downloaded to {tmp_path}/spare/hub, since {cache} cannot"):
        assert download_checkpoint(L0) == tmp_path / FILE
    assert asked == [tmp_path / "spare" / "hub"]
    monkeypatch.setattr(hub, "temporary_folder", lambda: None)
    with pytest.raises(WeightsError, match=rf"not cached and {cache} cannot be written: set HF_HOME .*{REMEDY}"):
        download_checkpoint(L0)


def test_what_the_hub_gives_is_checked_like_any_file(monkeypatch, tmp_path):
    path = tmp_path / FILE
    torch.save(create_model("nano").state_dict(), path)
    answer(monkeypatch, download=path)
    with pytest.raises(WeightsError, match="got the weights of 'nano'"):
        load_model("l0")
