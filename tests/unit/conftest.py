"""Fixtures for the unit tests."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """One thread: the tensors are tiny, and waking a second one costs more than it does on a busy machine."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
