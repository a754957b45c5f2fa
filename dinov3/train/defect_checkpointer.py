"""What a run keeps on disk so that it can be interrupted at any moment, and how it leaves when asked to."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import Agreement, World, max_over_ranks
from dinov3.defect_errors import StoppedError
from dinov3.defect_interrupts import StopSignals
from dinov3.defect_size import shortest
from dinov3.models.defect_checkpoint import save_checkpoint
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_resume import fingerprint
from dinov3.train.defect_signals import StoppableLoader
from dinov3.train.defect_state import TrainState

REMEDY = "Free disk space or choose another --save_dir, then continue with --resume"
# What 'best' means for each file: the first metric decides, the next ones break ties.
BEST = {
    "best_accuracy.pth": ("image_accuracy", "image_ap", "pixel_iou"),
    "best_iou.pth": ("pixel_iou", "image_ap"),
}


def improved_files(best: dict[str, dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """The best files whose metrics, compared in order, ``metrics`` exceed; NaN is less than anything."""

    def rank(values: dict[str, Any], names: tuple[str, ...]) -> tuple[float, ...]:
        found = [values.get(name, math.nan) for name in names]
        return tuple(-1.0 if math.isnan(value) else value for value in found)

    return [file for file, names in BEST.items() if file not in best or rank(metrics, names) > rank(best[file], names)]


def chosen_thresholds(defaults: dict[str, float], metrics: dict[str, Any]) -> dict[str, float]:
    """The thresholds to predict with: for the mask what validation found best, if it could tell."""
    best = metrics.get("best_mask_threshold", math.nan)
    return defaults if math.isnan(best) else defaults | {"mask": round(best, 3)}


def describe_run(config: TrainConfig, manifest: Manifest, normalization: Normalization) -> dict[str, Any]:
    """What every checkpoint of a run holds beside its state: what inference and another run need to know."""
    return {
        "config": config.record(),
        "backbone": config.backbone,
        "official": config.dinov3_repo is not None,
        "classes": manifest.classes,
        "mask_classes": manifest.mask_classes,
        "manifest": fingerprint(manifest),
        "white_level": manifest.white_level,
        "image_size": shortest(config.image_size),
        "tile_size": config.tile_size,
        "tile_overlap": config.tile_overlap,
        "normalization": {"mean": list(normalization.mean), "std": list(normalization.std)},
        "thresholds": {"classification": 0.5, "mask": 0.5},
    }


class Checkpointer:
    """Saves a run after each epoch, now and then within one, and when SIGTERM or Ctrl-C ends it; a context, which
    ends when all is written.

    Args:
        config: where to (``save_dir``), and how often within an epoch (``save_every_minutes``; 0 is never).
        description: what every checkpoint holds beside the state of the run.
        world, device: the first process writes, but all of them call every method.
    """

    def __init__(self, config: TrainConfig, description: dict[str, Any], world: World, device: torch.device):
        self.save_dir, self.description = config.save_dir, description | {"epochs": config.epochs}
        self.seconds_between = 60 * config.save_every_minutes
        self.world, self.device = world, device
        self.signals, self.writer = StopSignals(), BackgroundWriter()
        self.agreement = Agreement(device, asynchronous=device.type == "cuda")
        self.saved_at = time.monotonic()

    def __enter__(self) -> Checkpointer:
        self.signals.__enter__()
        if self.world.is_main:
            remove_unfinished(self.save_dir)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.writer.wait()
        except Exception:
            if kind is None:  # else the first error is the one to show
                raise
        finally:
            self.signals.__exit__(kind, value, trace)

    def after_update(self, state: TrainState) -> None:
        """Save if it is time to, and leave if a signal asks for it. Not between the batches of an update, as gradients
        are not saved. With several CUDA devices a wish of one process takes until the next call to reach all.

        Raises:
            StoppedError: it does, and the state was saved.
        """
        self.writer.check()
        elapsed = time.monotonic() - self.saved_at
        due = self.world.is_main and 0 < self.seconds_between <= elapsed and not self.writer.is_busy
        stop, due = self.agreement.reach([self.signals.received, int(due)])
        if stop or due:
            self.agreement.forget()
            self._write([], state)
        if stop:
            self._leave(stop, f"in epoch {state.epoch + 1}, after {state.meter.batches} batches")

    def batches_until_signal(self, loader: DataLoader, state: TrainState) -> StoppableLoader:
        """The batches of a validation's ``loader``. A signal ends them with StoppedError in all processes, after the
        state was saved: the epoch's training is kept, and validation is done again after a resume."""

        def leave_if_asked() -> None:
            state.finish_evaluation()
            stop = max_over_ranks([self.signals.received], self.device)[0]
            if stop:
                self._write([], state)
                self._leave(stop, f"in epoch {state.epoch + 1}, while validating")

        return StoppableLoader(loader, self.signals, leave_if_asked)

    def after_epoch(self, state: TrainState) -> None:
        """Save the epoch, with the best files that it improves.

        Raises:
            StoppedError: a signal asked for it, and this was not the last epoch.
        """
        improved = improved_files(state.best, state.metrics)
        for file in improved:
            state.best[file] = {"epoch": state.epoch} | {name: state.metrics[name] for name in BEST[file]}
        self._write(improved, state)
        stop = max_over_ranks([self.signals.received], self.device)[0]
        if stop and not state.is_over:
            self._leave(stop, f"after epoch {state.epoch}")

    def _write(self, best_files: list[str], state: TrainState) -> None:
        content = self.description | state.state_dict()  # in all processes
        if self.world.is_main:
            content["thresholds"] = chosen_thresholds(self.description["thresholds"], state.metrics)
            more = {name: content.pop(name) for name in ("training_state",) if name in content}
            # last.pth comes last: it says that the best files are up to date
            self.writer.submit([self.save_dir / file for file in (*best_files, "last.pth")], content, more)
        self.saved_at = time.monotonic()

    def _leave(self, number: int, place: str) -> None:
        self.writer.wait()
        max_over_ranks([0], self.device)  # torchrun ends all processes as soon as one has left: not before it is saved
        name = signal.Signals(number).name
        text = f"interrupted by {name} {place}; saved: the same command with --resume goes on from there"
        raise StoppedError(text if self.world.is_main else "", number)


def snapshot(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors are on the CPU and do not change any more."""
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
                save_checkpoint(path, content, REMEDY)
            save_checkpoint(paths[-1], content | more, REMEDY)
        except BaseException as error:  # handed over to the thread that trains
            self._error = error


def remove_unfinished(save_dir: Path) -> None:
    """Delete what a killed process had begun to write."""
    for path in save_dir.glob(".*.pth.unfinished"):
        path.unlink(missing_ok=True)
