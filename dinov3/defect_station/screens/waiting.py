"""How many doubtful images wait for a decision."""

from __future__ import annotations

import threading
import time

from dinov3.defect_station.store import Store
from dinov3.defect_station.store.figures import count_open

SECONDS = 1.5  # that a count is used for, by all pages


class Waiting:
    """Counts them, at most every few seconds however many pages ask. May be used by several threads."""

    def __init__(self, store: Store):
        self.store, self._lock = store, threading.Lock()
        self._count, self._until = 0, 0.0

    def count(self) -> int:
        """As of now, or of a few seconds ago."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._count = count_open(self.store)
                self._until = time.monotonic() + SECONDS
            return self._count

    def decided(self) -> None:
        """Count anew when next asked."""
        with self._lock:
            self._until = 0.0
