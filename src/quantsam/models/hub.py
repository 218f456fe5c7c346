"""Fetch official checkpoints from the Hugging Face hub, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantsam.errors import WeightsError, first_line
from quantsam.files import unwritable
from quantsam.models.variants import Variant
from quantsam.notices import notice
from quantsam.places import temporary_folder

HUB_REPOSITORY = "mit-han-lab/efficientvit-sam"
_ANSWER_S = 5.0  # limit for the hub's first answer; the download itself has the client's own limits


def download_checkpoint(variant: Variant) -> Path:
    """Return the official checkpoint from the Hugging Face hub, downloaded once and then cached.

    Ask the hub once whether it answers, because its client alone would retry for half a minute.

    Raises:
        WeightsError: Nothing is cached, and the hub cannot be reached or the download fails.
    """
    # slow to import, needed only here
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import HfHubHTTPError  # type: ignore[attr-defined]  # its home moved between versions

    name = variant.checkpoint_file
    remedy = f"download {name} from huggingface.co/{HUB_REPOSITORY} elsewhere and pass it with --weights {name}"
    places = _caches(Path(constants.HF_HUB_CACHE))
    for place in places:
        found = try_to_load_from_cache(HUB_REPOSITORY, name, cache_dir=place)
        if isinstance(found, str):
            return Path(found)
    writable = next((place for place in places if unwritable(place) is None), None)
    if writable is None:
        raise WeightsError(
            f"weights of {variant.name!r} are not cached and {places[0]} cannot be written: set HF_HOME to a folder "
            f"that can, or {remedy}"
        )
    refused = f"weights of {variant.name!r} cannot be had from the hub"
    with _silent_client():
        try:
            get_hf_file_metadata(hf_hub_url(HUB_REPOSITORY, name), timeout=_ANSWER_S)
        except HfHubHTTPError as error:  # it answers, but refuses
            raise WeightsError(f"{refused} ({first_line(error)}): {remedy}") from error
        except Exception as error:  # network errors differ between versions of the hub's client
            raise WeightsError(
                f"weights of {variant.name!r} are not cached and the hub cannot be reached ({first_line(error)}): "
                f"{remedy}"
            ) from error
        if writable != places[0]:
            notice(
                f"weights are downloaded to {writable}, since {places[0]} cannot be written: set HF_HOME to keep them "
                "elsewhere"
            )
        try:
            return Path(hf_hub_download(HUB_REPOSITORY, name, cache_dir=writable))
        except Exception as error:
            raise WeightsError(f"{refused} ({first_line(error)}): {remedy}") from error


def _caches(usual: Path) -> list[Path]:
    """Return the folders that may hold checkpoints, the client's own cache first."""
    spare = temporary_folder()
    return [usual.absolute()] + ([] if spare is None else [spare / "hub"])


@contextmanager
def _silent_client() -> Iterator[None]:
    """Keep the client's raw messages off the screen: quantsam reports a failure in one line."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
