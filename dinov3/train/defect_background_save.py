"""Writing checkpoints while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinov3.models.defect_checkpoint import save_checkpoint


def snapshot(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors lie on the CPU and change no more."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(snapshot(item) for item in value)
    return value


class BackgroundWriter:
    """Writes checkpoints in a thread of its own, one :meth:`submit` at a time and in order.

    A failure is raised by the next call of any method.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last submission is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raise what went wrong since the last call, if anything did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def submit(self, paths: list[Path], content: dict[str, Any], more: Mapping[str, Any] | None = None) -> None:
        """Write ``content`` as it is now to each of ``paths``, one after the other, and ``more`` into the last one,
        too. Waits if the last submission is not finished, so that there are never more than two states in memory."""
        self.wait()
        copies = (snapshot(content), snapshot(more or {}))
        self._thread = threading.Thread(target=self._write, args=(paths, *copies), name="checkpoints")
        self._thread.start()

    def wait(self) -> None:
        """Return when all is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(self, paths: list[Path], content: dict[str, Any], more: dict[str, Any]) -> None:
        try:
            for path in paths[:-1]:
                save_checkpoint(path, content)
            save_checkpoint(paths[-1], content | more)
        except BaseException as error:  # handed over to the thread that trains
            self._error = error


def remove_unfinished(save_dir: Path) -> None:
    """Delete what a killed process had begun to write."""
    for path in save_dir.glob(".*.pth.unfinished"):
        path.unlink(missing_ok=True)
