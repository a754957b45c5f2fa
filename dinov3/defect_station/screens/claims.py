"""Who looks at which image, so that two people who review at once see different ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

SECONDS = 90.0  # that a claim holds without a word from the page
MOST = 1000  # images that one page may put off


class Claims:
    """Claims of pages on images, in memory: they keep people apart, and what keeps a decision from being made twice is
    ``Store.decide(after=...)``. May be used by several threads.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self._held: dict[int, tuple[str, float]] = {}  # image: page, until when
        self._put_off: dict[str, tuple[set[int], float]] = {}  # page: images, until when

    def take(self, page: str, rows: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """The first ``count`` rows that no other page has and this one has not put off; they are its own now. If it
        has put off all that others left, these come again."""
        with self._lock:
            self._forget()
            free = [row for row in rows if self._held.get(row["id"], (page,))[0] == page]
            put_off = self._put_off.get(page, (set(), 0))[0]
            taken = [row for row in free if row["id"] not in put_off][:count]
            if not taken and free and count:
                put_off.clear()
                taken = free[:count]
            self._hold(page, [row["id"] for row in taken])
            return taken

    def renew(self, page: str, images: Iterable[int]) -> None:
        """The page still shows these."""
        with self._lock:
            self._forget()
            self._hold(page, [image for image in images if self._held.get(image, (page,))[0] == page])

    def release(self, page: str, image: int, put_off: bool = False) -> None:
        """The page is done with an image; or does not want to see it for now, if ``put_off``."""
        with self._lock:
            if self._held.get(image, (None,))[0] == page:
                del self._held[image]
            if put_off:
                images = self._put_off.get(page, (set(), 0))[0]
                if len(images) < MOST:
                    images.add(image)
                self._put_off[page] = images, self._clock() + 40 * SECONDS

    def leave(self, page: str) -> None:
        """The page is closed."""
        with self._lock:
            self._held = {image: held for image, held in self._held.items() if held[0] != page}
            self._put_off.pop(page, None)

    def spoken_for(self, page: str) -> int:
        """Of how many images :meth:`take` may have to pass over because of other pages or of what was put off."""
        with self._lock:
            self._forget()
            others = sum(holder != page for holder, _ in self._held.values())
            return others + len(self._put_off.get(page, (set(), 0))[0])

    def of_others(self, page: str) -> int:
        """How many images other pages hold."""
        with self._lock:
            self._forget()
            return sum(holder != page for holder, _ in self._held.values())

    def _hold(self, page: str, images: Iterable[int]) -> None:
        until = self._clock() + SECONDS
        self._held.update({image: (page, until) for image in images})

    def _forget(self) -> None:
        now = self._clock()
        self._held = {image: held for image, held in self._held.items() if held[1] > now}
        self._put_off = {page: images for page, images in self._put_off.items() if images[1] > now}
