"""SIGTERM and Ctrl-C: noted, held back, or as an exception, so that what runs is left in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came; as with Ctrl-C, what runs is left in order."""


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep SIGTERM and SIGINT back until the end of the context: for two steps that belong together."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in that one alone
        yield
        return
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in received[:1]:
            signal.raise_signal(number)


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM, where it would just end the process, into :class:`TerminatedError`."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopSignals:
    """Notes the signals that ask to stop, while its context lasts; before and after they do what they always did.

    A second Ctrl-C, at least a second after the first (``torchrun`` and the terminal may each pass on the same one),
    raises KeyboardInterrupt for those who won't wait.

    Attributes:
        received: number of the first such signal, 0 while there is none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, time.monotonic()
