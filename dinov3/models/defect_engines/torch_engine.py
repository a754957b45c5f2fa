"""The reference: a checkpoint's own network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinov3.data.defect_transforms import Normalization
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_device import PrecisionName, compile_model, resolve_device, resolve_precision
from dinov3.models.defect_engines.base import Engine, EngineOutput, Started
from dinov3.models.defect_engines.class_token import ClassToken
from dinov3.models.defect_facts import ModelFacts, fingerprint
from dinov3.models.defect_fuse_bn import fuse_batch_norms


class TorchEngine(Engine):
    """Runs a module with the outputs of :class:`~dinov3.models.defect_classifier.AttentionGuidedDefectClassifier`.

    Args:
        model: it is moved to the device and put into eval mode.
        device, precision: as :mod:`~dinov3.models.defect_device` has them.
        threads: of the CPU; they are torch's, so of the whole process.
        compile: have the network compiled at its first batch.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        facts: ModelFacts,
        *,
        device: str = "auto",
        precision: PrecisionName = "auto",
        threads: int | None = None,
        compile: bool = False,  # noqa: A002  torch's own word
    ):
        self.facts, self.device = facts, resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.normalization = Normalization(facts.mean, facts.std)
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.class_token = ClassToken(self.model)
        if compile:
            compile_model(self.model, self.device)
        self.compiled = compile
        self.largest = 0  # batch so far: a compiled network is compiled anew for every size

    @torch.inference_mode()
    def start(self, images: np.ndarray) -> Started:
        self.expect_batch(images)
        count = len(images)
        if self.compiled:
            self.largest = max(self.largest, count)
            images = np.concatenate([images, np.repeat(images[-1:], self.largest - count, axis=0)])
        clock = _Clock(self.device)
        pixels = torch.from_numpy(images)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        outputs = self.outputs(pixels.to(self.device).permute(0, 3, 1, 2))
        answers = EngineOutput(
            outputs["classification"].float().softmax(1)[:count],
            outputs["segmentation"].float().sigmoid()[:count],
            outputs["attention_map"].float()[:count],
            outputs["novelty"].float()[:count] if "novelty" in outputs else None,
            self.class_token.take(count),
        )
        started = _Started([None if value is None else _to_host(value) for value in answers], clock)
        clock.stop()
        return started

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the model itself returns for (B, 3, H, W) uint8 images on its device."""
        with self.precision.autocast():
            return self.model(self.normalization(images), return_attention=True)


class _Started(Started):
    """Tensors on the CPU, valid after the clock's ``wait``."""

    def __init__(self, tensors: list[Tensor | None], clock: _Clock):
        self.tensors, self.clock = tensors, clock

    def wait(self) -> tuple[EngineOutput, float]:
        seconds = self.clock.wait()
        return EngineOutput(*(None if value is None else value.numpy() for value in self.tensors)), seconds


class _Clock:
    """When a batch is done, and how long the device took; it starts when made."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.device, self.begun = device, self._now()

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def stop(self) -> None:
        """What was started ends here; the device may be behind."""
        self.end = self._now()

    def wait(self) -> float:
        """Wait until the device is done; seconds."""
        if not self.cuda:
            return self.end - self.begun
        self.end.synchronize()
        return self.begun.elapsed_time(self.end) / 1000


def _to_host(value: Tensor) -> Tensor:
    """To the CPU; from CUDA without waiting, into page-locked memory, which alone can be written meanwhile."""
    if not value.is_cuda:
        return value.cpu()
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


def open_checkpoint(path: Path, *, dinov3_repo: Path | None = None, **options: Any) -> TorchEngine:
    """The engine of a checkpoint; ``options`` are those of :class:`TorchEngine`.

    Raises:
        DefectError: the file cannot be used.
    """
    content = load_checkpoint(path)
    model = restore_model(content, path, dinov3_repo)
    fuse_batch_norms(model, content["image_size"])
    return TorchEngine(model, ModelFacts.of_checkpoint(content, fingerprint(path)), **options)
