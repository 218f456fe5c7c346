"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real samples beside the repository, or `$QUANTSAM_SHARED/data`."""
    shared = Path(os.environ.get("QUANTSAM_SHARED") or REPOSITORY.parent / "shared")
    if not (shared / "data").is_dir():
        pytest.skip(f"{shared / 'data'} is absent: the real samples are not part of the repository")
    return shared / "data"
