"""What the page's server accepts and keeps."""

from __future__ import annotations

from dataclasses import dataclass

VIEW_SIDE = 1024
"""Longer side in pixels of what the browser shows of a picture; masks are sent at this resolution."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts and keeps.

    Attributes:
        upload_bytes: Of a picture's file.
        pixels: Of a picture.
        json_bytes: Of a request for masks.
        prompts: Boxes, and points, of one request.
        mask_bytes: Of one panel's masks, one byte a pixel of the picture: bounds the boxes on a large picture.
        masks: Of one panel where everything is segmented; the best stay.
        grid_pixels: Points of the grid times pixels of the view, where everything is segmented: with thresholds of 0
            every point gives three masks of the view's size. As many as SAM's 32 x 32 points on the largest view.
        pictures: How many are kept; those used least recently go first.
        picture_bytes: Of all pictures that are kept.
        embeddings: How many are kept, one for each picture, model, scheme and engine.
        embedding_bytes: Of all embeddings that are kept.
        found: How many answers to "segment everything" are kept, so that they can be saved and compared with others.
        found_bytes: Of all these answers.
        encoders: How many are kept, one for each model, scheme and engine.
        waiting: Requests for masks that are computed or wait.
        uploads: Pictures that are received or decoded at once.
        saves: Files of masks, or pictures at full size, that are made at once.
        upload_seconds: In which a picture must have arrived.
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
