"""A cache with a limit on its entries and perhaps on its bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps the most recently used entries. Several threads may use it.

    The newest entry stays even if it alone exceeds the limit.

    Args:
        max_count: Number of entries that are kept.
        max_bytes: Size of all entries together; None for no limit.

    >>> kept = Lru(2, 100)
    >>> for name in "abc":
    ...     kept.put(name, name.upper(), 10)
    >>> kept.get("a"), kept.get("c")
    (None, 'C')
    """

    def __init__(self, max_count: int, max_bytes: int | None = None) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Size of all entries together, as given to `put`."""
        with self._lock:
            return self._sum()

    def get(self, key: K) -> V | None:
        """Return an entry and make it the newest; None if there is none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep an entry, and drop old ones to stay within the limits."""
        with self._lock:
            self._entries[key] = (value, size_bytes)
            self._entries.move_to_end(key)
            while len(self._entries) > 1 and self._is_full():
                self._entries.popitem(last=False)

    def _is_full(self) -> bool:
        too_large = self._max_bytes is not None and self._sum() > self._max_bytes
        return too_large or len(self._entries) > self._max_count

    def _sum(self) -> int:
        return sum(size for _, size in self._entries.values())
