"""What an epoch of training has seen and learned so far, and which of its batches stood out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dinov3.defect_distributed import AsyncScalar, gather_over_ranks, means_over_ranks, sum_over_ranks
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import report_unreadable
from dinov3.train.defect_guardrails import LossGuard

COUNTS = ("images", "verdicts", "masks", "unreadable")
# The scale of fp16's losses starts at 2**16 and is halved with each overflow: by then it is not what overflows.
MAX_OVERFLOWS = 20
SHOWN_EVERY = 10  # batches


@dataclass(frozen=True)
class Batch:
    """What the meter keeps of a batch: all but its pixels."""

    place: str
    index: Tensor
    labels: Tensor
    has_mask: Tensor
    losses: dict[str, Tensor]


class EpochMeter:
    """Counts what this process's share of an epoch has done, update by update.

    On a CUDA device the numbers of an update are read when the next one is on its way, so that the host never waits:
    call :meth:`flush` before the meter is saved.

    Args:
        guard: decides how many updates may be skipped.
        device: of the losses.
        asynchronous: whether numbers are read one update later.
        overflows: whether gradients overflow now and then, as fp16's do; no mark of a bad batch then.
        write: prints a note.

    Attributes:
        batches: how many are done in this epoch.
        totals: sums over images of each loss.
        counts: (4,) images that taught something, those with a verdict, those with a mask; files that were unreadable.
        skipped, spikes: updates skipped because of their loss, and batches with an unusually high one.
        seconds: training time.
    """

    def __init__(
        self,
        guard: LossGuard,
        device: torch.device,
        *,
        asynchronous: bool = False,
        overflows: bool = False,
        write: Callable[[str], None] = print,
    ):
        self.guard, self.device, self.write = guard, device, write
        self.asynchronous, self.overflows = asynchronous, overflows
        self._overflowed = 0  # updates in a row
        self._update: list[Batch] = []  # of the update that is being computed
        self._unread: list[Batch] = []  # of the update whose numbers are on their way
        self._values, self._shown_loss = AsyncScalar(), AsyncScalar()
        self.reset()

    def reset(self) -> None:
        """Before another epoch."""
        self.batches, self.skipped, self.spikes, self.seconds = 0, 0, 0, 0.0
        self.totals: dict[str, Tensor] = {}
        self.counts = torch.zeros(len(COUNTS), dtype=torch.long)
        self._loss_text = ""

    def start(self, epoch: int, loader: DataLoader) -> None:
        """Before the first batch of ``epoch`` (from 0), or of what is left of it; ``loader`` names files."""
        self._epoch, self._loader = epoch, loader
        self._began = time.perf_counter() - self.seconds
        self._overflowed = 0

    def add(self, batch: dict[str, Any], losses: dict[str, Tensor]) -> None:
        """Take in a batch, as the loader gave it, and what the loss made of it."""
        self.batches += 1
        self.counts[3] += report_unreadable(batch)
        place = f"epoch {self._epoch + 1}, batch {self.batches}"
        losses = {name: value.detach() for name, value in losses.items()}
        self._update.append(Batch(place, batch["index"], batch["label"], batch["has_mask"], losses))

    def end_update(self, grad_norm: Tensor) -> None:
        """The batches since the last call made an update with a gradient of this norm (a scalar on the device).

        Raises:
            DefectError: too many updates were skipped.
        """
        values = torch.stack([*(batch.losses["total_loss"] for batch in self._update), grad_norm])
        if self.asynchronous:
            self.flush()
        self._unread, self._update = self._update, []
        self._values.put(values)
        if not self.asynchronous:
            self.flush()
        self.seconds = time.perf_counter() - self._began

    def loss_text(self) -> str:
        """The epoch's mean loss so far, to show after each update; a new one every few batches, so that the host does
        not wait for the device."""
        if self.totals and self.batches // SHOWN_EVERY > (self.batches - len(self._unread)) // SHOWN_EVERY:
            loss = self._shown_loss.exchange(self.totals["train_total_loss"] / self.counts[0])
            self._loss_text = self._loss_text if loss is None else f"loss={loss:.3f}"
        return self._loss_text

    def flush(self) -> None:
        """Count what :meth:`end_update` still holds back; to be called in all processes.

        Raises:
            DefectError: too many updates were skipped.
        """
        values = self._values.take()
        if values is None:
            return
        *losses, norm = values.tolist()
        bad = [batch for batch, loss in zip(self._unread, losses, strict=True) if not math.isfinite(loss)]
        self._overflowed = 0 if math.isfinite(norm) else self._overflowed + 1
        if bad or self._overflowed > (MAX_OVERFLOWS if self.overflows else 0):
            texts = (f"{describe(batch, norm)}; files: {self._files(batch)}" for batch in bad or self._unread)
            self.write(self.guard.skip("\n".join(texts)))
            self.skipped += 1
            return
        for batch, loss in zip(self._unread, losses, strict=True):
            if self.guard.is_spike(loss):
                usual = f"usually about {self.guard.usual:.4g}; files: {self._files(batch)}"
                self.write(f"{batch.place}: loss {loss:.4g}, {usual}")
                self.spikes += 1
            self._count(batch)

    def _count(self, batch: Batch) -> None:
        """A batch that taught something."""
        images = len(batch.labels)
        for name, value in batch.losses.items():
            name = name if name in ("alpha", "beta") else f"train_{name}"
            self.totals[name] = self.totals.get(name, 0.0) + value * images
        self.counts[:3] += torch.tensor([images, (batch.labels >= 0).sum(), batch.has_mask.sum()])

    def _files(self, batch: Batch) -> str:
        """The images of a batch, in all processes; to be called in all of them."""
        dataset: Any = self._loader.dataset
        names = [str(dataset.manifest.columns["image"][index]) for index in batch.index.tolist()]
        return ", ".join(name for part in gather_over_ranks(names) for name in part)

    def compute(self) -> dict[str, float]:
        """The epoch's numbers over all processes, in all of which this is to be called.

        Returns:
            ``train_total_loss``, ``train_cls_loss``, ``train_seg_loss``, ``alpha``, ``beta`` (means over the images);
            ``images_per_second``; how many images taught the class (``verdicts_seen``) and the mask
            (``masks_seen``); ``unreadable``, how many could not be read; ``skipped_batches`` and ``loss_spikes``.

        Raises:
            DefectError: no update was finite, or too many were skipped.
        """
        self.flush()
        self.seconds = time.perf_counter() - self._began
        counts = dict(zip(COUNTS, sum_over_ranks(self.counts.to(self.device, copy=True)).tolist(), strict=True))
        if not self.totals:
            raise DefectError(f"epoch {self._epoch + 1}: the loss was finite in none of its batches; lower --lr")
        return means_over_ranks(self.totals, int(self.counts[0])) | {
            "images_per_second": counts["images"] / self.seconds,
            "verdicts_seen": counts["verdicts"],
            "masks_seen": counts["masks"],
            "unreadable": counts["unreadable"],
            "skipped_batches": self.skipped,
            "loss_spikes": self.spikes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands in this process."""
        names = ("batches", "counts", "skipped", "spikes", "seconds")
        totals = {name: value.cpu() for name, value in self.totals.items()}
        return {name: getattr(self, name) for name in names} | {"totals": totals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        for name in ("batches", "counts", "skipped", "spikes", "seconds"):
            setattr(self, name, state[name])
        self.totals = {name: value.to(self.device) for name, value in state["totals"].items()}


def describe(batch: Batch, grad_norm: float) -> str:
    """What is wrong with a batch whose losses, or the norm of the gradient, are not finite."""
    losses = ", ".join(f"{name} {value.item():.4g}" for name, value in batch.losses.items())
    return f"{batch.place}: the loss or its gradient is not finite ({losses}, gradient norm {grad_norm:.4g})"
