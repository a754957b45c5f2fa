"""One update of the weights, left out where a loss or the gradient is not finite, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dinov3.defect_distributed import AsyncScalar
from dinov3.train.defect_fsdp import clip_gradient
from dinov3.train.defect_guardrails import LossGuard, batch_files, describe
from dinov3.train.defect_meter import EpochProgress

# The scale of fp16's losses starts at 2**16 and is halved with each overflow: by then it is not what overflows.
MAX_OVERFLOWS = 20


def taint(loss: Tensor) -> Tensor:
    """``loss``, whose gradient is NaN throughout if it is not finite, so that the norm of the gradient tells of it."""
    return loss * torch.ones_like(loss).masked_fill_(~loss.detach().isfinite(), math.nan)


class Updater:
    """Moves the weights, or leaves them, the optimizer's state and the statistics of norms as they were.

    With a fused optimizer the device itself leaves an update out, and the host need not know.

    Args:
        step: whose gradients and statistics these are.
        grad_clip: largest norm of the gradient; 0 turns clipping off.
    """

    def __init__(self, step: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, grad_clip: float):
        self.optimizer, self.scaler, self.grad_clip = optimizer, scaler, grad_clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms = (m for m in step.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Before the first batch of an update."""
        self._before = [buffer.clone() for buffer in self._statistics]
        self.optimizer.zero_grad(set_to_none=True)

    def apply(self) -> tuple[Tensor, Tensor]:
        """Update from the gradients of :func:`taint`-ed losses.

        Returns:
            The norm of the gradient before clipping, a scalar; and whether the update is left out, a bool scalar.
        """
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradient(self._parameters, self.grad_clip or math.inf)
        left_out = ~norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # it looks at the gradient itself
        elif all(group.get("fused") for group in self.optimizer.param_groups):
            self.optimizer.found_inf = left_out.float()  # as torch's scaler tells it
            self.optimizer.step()
        elif not left_out:
            self.optimizer.step()
        self.scaler.update()
        for buffer, before in zip(self._statistics, self._before, strict=True):
            buffer.copy_(torch.where(left_out, before, buffer))
        return norm, left_out


class UpdateRecord:
    """Books what came of each update: what was learned from, what was left out, and which losses stood out.

    Args:
        guard: decides how many updates may be left out.
        state: the epoch to book in.
        loader: of the batches, to name their files.
        late: book an update when the next one is on its way, so that the host never waits for a CUDA device.
        overflows: whether gradients overflow now and then, as fp16's do; no mark of a bad batch then.
        write: prints a note.
    """

    def __init__(
        self,
        guard: LossGuard,
        state: EpochProgress,
        loader: DataLoader,
        *,
        late: bool,
        overflows: bool,
        write: Callable[[str], None],
    ):
        self.guard, self.state, self.loader = guard, state, loader
        self.late, self.overflows, self.write = late, overflows, write
        self._batches: list[dict[str, Any]] = []
        self._overflowed = 0  # updates in a row
        self._values = AsyncScalar()

    def add(self, batches: list[dict[str, Any]], norm: Tensor) -> None:
        """Take in an update from ``batches``, each with its ``losses`` and ``place``, and the ``norm`` of its gradient.

        Raises:
            DefectError: too many updates were left out.
        """
        values = torch.stack([*(batch["losses"]["total_loss"] for batch in batches), norm])
        if self.late:
            self.settle()
        self._batches = batches
        self._values.put(values)
        if not self.late:
            self.settle()

    def settle(self) -> None:
        """Book what :meth:`add` still holds back; to be called in all processes, before the state is saved or read.

        Raises:
            DefectError: too many updates were left out.
        """
        values = self._values.take()
        if values is None:
            return
        *losses, norm = values.tolist()
        bad = [batch for batch, loss in zip(self._batches, losses, strict=True) if not math.isfinite(loss)]
        self._overflowed = 0 if math.isfinite(norm) else self._overflowed + 1
        if bad or self._overflowed > (MAX_OVERFLOWS if self.overflows else 0):
            texts = (f"{describe(one, norm)}; files: {batch_files(one, self.loader)}" for one in bad or self._batches)
            self.write(self.guard.skip("\n".join(texts)))
            self.state.skipped += 1
            return
        for batch, loss in zip(self._batches, losses, strict=True):
            if self.guard.is_spike(loss):
                files = batch_files(batch, self.loader)
                self.write(f"{batch['place']}: loss {loss:.4g}, usually about {self.guard.usual:.4g}; files: {files}")
                self.state.spikes += 1
            self.state.add(batch)
