"""The limits on what the page's server accepts and keeps."""

from __future__ import annotations

from dataclasses import dataclass

VIEW_SIDE = 1024
"""Longer side in pixels of what the browser shows of a picture; masks are sent at this resolution."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what the server accepts and keeps.

    Attributes:
        upload_bytes: Size of an image file.
        pixels: Pixels of an image.
        json_bytes: Size of a request for masks.
        prompts: Boxes in one request, and likewise points.
        mask_bytes: Size of one panel's masks, at one byte per pixel of the image. It limits boxes on a large image.
        masks: Masks of one panel when everything is segmented; the best stay.
        grid_pixels: Points of the grid times pixels of the view, when everything is segmented: with thresholds of 0,
            every point gives three masks of the view's size. The default allows SAM's 32 x 32 points on the largest
            view.
        pictures: Number of images that are kept; the least recently used go first.
        picture_bytes: Size of all kept images.
        embeddings: Number of kept embeddings, one for each image, model, scheme and engine.
        embedding_bytes: Size of all kept embeddings.
        found: Number of kept answers to "segment everything", which can be saved and compared with others.
        found_bytes: Size of all these answers.
        encoders: Number of kept encoders, one for each model, scheme and engine.
        waiting: Requests for masks that run or wait.
        uploads: Images that are received or decoded at the same time.
        saves: Files of masks, or images at full size, that are made at the same time.
        upload_seconds: Seconds within which an image must arrive.
    """

    upload_bytes: int = 20_000_000
    pixels: int = 24_000_000
    json_bytes: int = 65_536
    prompts: int = 64
    mask_bytes: int = 2**28
    masks: int = 256
    grid_pixels: int = 32**2 * VIEW_SIDE**2
    pictures: int = 32
    picture_bytes: int = 2**29
    embeddings: int = 128
    embedding_bytes: int = 2**28
    found: int = 64
    found_bytes: int = 2**26
    encoders: int = 16
    waiting: int = 8
    uploads: int = 4
    saves: int = 2
    upload_seconds: float = 60
