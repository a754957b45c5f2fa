"""The interface between a model and all that is done with its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import numpy as np

from dinov3.models.defect_facts import ModelFacts

EngineName = Literal["torch", "onnx", "openvino"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

# Names of an exported graph's input, uint8 (B, H, W, 3), and of its outputs, float32: those of ``EngineOutput``;
# ``novelty`` only if the model has it, ``embedding`` not in files of the first version. Its batch size is free, all
# else fixed.
INPUT = "images"
REQUIRED = ("class_prob", "mask_prob", "attention")


class EngineOutput(NamedTuple):
    """The answers for a batch."""

    class_prob: np.ndarray  # (B, K) float32 at temperature 1, adding up to 1
    mask_prob: np.ndarray  # (B, S, H, W) float32, 0 to 1, at the network's input size
    attention: np.ndarray  # (B, 1, h, w) float32 pooling weights, which add up to 1 per image
    novelty: np.ndarray | None = None  # (B, 1, H, W) float32 deviations from good parts, of models that know those
    embedding: np.ndarray | None = None  # (B, D) float32, the backbone's class token or the mean of its last map


class Started(ABC):
    """A batch under way."""

    @abstractmethod
    def wait(self) -> tuple[EngineOutput, float]:
        """The answers once they are there, and the seconds that the device took for the batch. For any thread, and as
        often as one likes."""


class Done(Started):
    """A batch of an engine that answers at once."""

    def __init__(self, output: EngineOutput, seconds: float):
        self.output, self.seconds = output, seconds

    def wait(self) -> tuple[EngineOutput, float]:
        return self.output, self.seconds


class Engine(ABC):
    """Runs one model.

    Images are (B, H, W, 3) uint8 RGB, C-contiguous, resized to ``facts.image_size``, which is (H, W); normalisation is
    the engine's work (part of an exported graph). Temperature and thresholds are not: they come after it, in
    :mod:`dinov3.inference`. B is at least 1 and may differ from call to call.

    Attributes:
        name: one of ``ENGINES``.
        facts: about the model.
    """

    name: EngineName
    facts: ModelFacts

    @abstractmethod
    def start(self, images: np.ndarray) -> Started:
        """Begin with a batch; a device that works on its own, such as CUDA, goes on while this returns. For one thread
        at a time."""

    def run(self, images: np.ndarray) -> EngineOutput:
        """The answers for a batch."""
        return self.start(images).wait()[0]

    def expect_batch(self, images: np.ndarray) -> None:
        """Raises ValueError unless ``images`` is a batch for this model."""
        height, width = self.facts.image_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3) or not len(images):
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}; expected uint8 of shape (B, {height}, {width}, 3)"
            )
