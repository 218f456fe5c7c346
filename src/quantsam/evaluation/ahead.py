"""Decode images ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from quantsam.data.dataset import Dataset, UInt8Image

WORKERS = 2
AHEAD = 4  # images kept in memory besides the one in use


def images_ahead(dataset: Dataset, image_ids: Iterable[int]) -> Generator[tuple[int, UInt8Image]]:
    """Yield ids and images in order, while threads decode the next few.

    Raises:
        ImageError: A file cannot be read as an image; raised when its turn comes, as by `dataset.image`.
    """
    waiting: deque[tuple[int, Future[UInt8Image]]] = deque()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="quantsam-images")
    try:
        for image_id in image_ids:
            waiting.append((image_id, pool.submit(dataset.image, image_id)))
            if len(waiting) > AHEAD:
                first, picture = waiting.popleft()
                yield first, picture.result()
        while waiting:
            first, picture = waiting.popleft()
            yield first, picture.result()
    finally:
        pool.shutdown(cancel_futures=True)
