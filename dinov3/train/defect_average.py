"""The exponential moving average of the weights: what is evaluated and kept, while the raw weights train on."""

from __future__ import annotations

from timm.utils import ModelEmaV3
from torch import Tensor, nn


def average_weights(model: nn.Module, decay: float) -> ModelEmaV3:
    """An average of ``model``; ``.module`` is a copy in eval mode with the averaged weights and norm statistics.

    Call ``update(model, step=N)`` after optimizer step N, from 1. The decay warms up, ``1 - N ** (-2 / 3)`` up to
    ``decay``, so that a short run does not drag its first weights along: 0.95 at step 100, 0.99 at step 1000. Weights
    that don't train are shared with the model rather than copied.
    """
    average = ModelEmaV3(model, decay=decay, use_warmup=True)
    average.module.requires_grad_(False)
    for own, source in zip(average.module.parameters(), model.parameters(), strict=True):
        if not source.requires_grad:
            own.data = source.data
    return average


def training_state(model: nn.Module, average: ModelEmaV3 | None) -> dict[str, dict[str, Tensor]]:
    """The weights to go on training with, where those for inference differ (averaged, adapters merged)."""
    state = {"model": model.state_dict()}
    return state if average is None else state | {"average": average.module.state_dict()}
