"""What the network says of images, on its way from the device to the CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class NetworkOutput:
    """Of a batch; its tensors are on the CPU and valid after ``clock.wait()``."""

    clock: Clock
    class_prob: Tensor  # (B, K), calibrated
    mask_prob: Tensor  # (B, S, h, w) at the network's input size
    attention: Tensor  # (B, 1, h', w')
    novelty: Tensor | None = None  # (B,) the largest deviation from good parts, if the model knows those
    novel_place: Tensor | None = None  # (B,) where that is in the flattened (h, w)


@dataclass(frozen=True)
class TilesOutput:
    """Of one image by tiles."""

    class_prob: np.ndarray  # (K,), calibrated
    peak: np.ndarray  # (H, W) float32, the strongest mask channel's probability
    channel: np.ndarray  # (H, W) uint8, which one
    attention: np.ndarray  # (h, w) float32
    seconds: float


class Clock:
    """When a batch is done, and how long the device took; it starts when made."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.device, self.start = device, self._now()

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def stop(self, images: int) -> None:
        """What was started for a batch of ``images`` ends here; the device may be behind."""
        self.end, self.images = self._now(), images

    def wait(self) -> float:
        """Wait until the batch is done; seconds per image."""
        if not self.cuda:
            return (self.end - self.start) / self.images
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1000 / self.images


def to_host(value: Tensor) -> Tensor:
    """To the CPU; from CUDA without waiting, into page-locked memory, which alone can be written meanwhile."""
    if not value.is_cuda:
        return value.cpu()
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
