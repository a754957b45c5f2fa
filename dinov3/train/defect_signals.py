"""SIGTERM and Ctrl-C end a run in an orderly way: the step is finished, the state saved, and the process leaves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from torch.utils.data import DataLoader

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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


class StoppableLoader:
    """The batches of ``loader`` until a stop signal arrives; after the last one, ``at_end`` is called.

    ``at_end`` may raise, so that whoever loops over the batches doesn't go on to sum up a part of them.
    """

    def __init__(self, loader: DataLoader, signals: StopSignals, at_end: Callable[[], None]):
        self.loader, self.signals, self.at_end = loader, signals, at_end

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            if self.signals.received:
                break
            yield batch
        self.at_end()
