"""SIGTERM and Ctrl-C end training in an orderly way: the step is finished, the state saved, and the process leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from dinov3.defect_interrupts import StopSignals


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
