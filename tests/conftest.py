"""Fixtures for all tests."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # the first call may compile a kernel
settings.load_profile("patient")

PATIENCE_S = 300
"""How long a test waits for another process, on a machine that may be busy."""

os.environ["QUANTSAM_CACHE"] = "off"  # no test may find a plan that another run left

REPOSITORY = Path(__file__).resolve().parents[1]


def _shared(name):
    folder = Path(os.environ.get("QUANTSAM_SHARED") or REPOSITORY.parent / "shared") / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def shared_reference():
    """The folder of reference facts beside the repository, or `$QUANTSAM_SHARED/reference`."""
    return _shared("reference")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real samples beside the repository, or `$QUANTSAM_SHARED/data`."""
    return _shared("data")


@pytest.fixture(scope="session")
def tiny(make_tiny):
    """`nano` on 64 pixels with random weights: the same layers, sites and state dict, quick. Not to be changed."""
    return make_tiny()


@pytest.fixture(scope="session")
def make_tiny():
    """Makes a `tiny` of one's own from a seed."""
    return _make_tiny


@pytest.fixture(scope="session")
def convolutions(tiny):
    """How many convolutions the encoder of `nano` and `tiny` has, as PyTorch counts them."""
    import torch

    return sum(isinstance(module, torch.nn.Conv2d) for module in tiny.float_encoder.modules())


@pytest.fixture(scope="session")
def web_runtime():
    """The files of onnxruntime-web: from the user's cache, or else from npm."""
    from quantsam.errors import EngineError
    from quantsam.runtime.web.package import runtime_files

    try:
        return runtime_files()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def web(web_runtime):
    """The engine `web`, where there is a browser for it."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("there is no chromium on this machine")
    return "web"


def _make_tiny(seed=0):
    """Return a `tiny`."""
    import torch

    from quantsam.models.sam import EfficientViTSam
    from quantsam.models.variants import VARIANTS

    variant = dataclasses.replace(VARIANTS["nano"], input_size=64, prompt_size=64, embed_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EfficientViTSam(variant)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.2, 1)
    return model.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    """The store that commands use by default: never the user's own."""
    path = tmp_path_factory.mktemp("store", numbered=True) / "results.sqlite"
    monkeypatch.setenv("QUANTSAM_STORE", str(path))
    return path
