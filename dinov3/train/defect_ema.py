"""The exponential moving average of a model's weights, which is evaluated and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dinov3.models.defect_checkpoint import load_model_state
from dinov3.models.defect_lora import has_adapters, merged_state


class ModelEma:
    """A model that trains, and with a ``decay`` above 0 its average.

    The decay warms up, ``1 - N ** (-2 / 3)`` at update N and at most ``decay``, so that a short run does not drag its
    first weights along: 0.95 at update 100, 0.99 at 1000. Weights that don't train are shared rather than copied.

    Attributes:
        model: what trains.
        module: what to evaluate and keep: a copy in eval mode with the averaged weights and norm statistics, or
            without averaging the model itself.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self._average = ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None
        self.module = model if self._average is None else self._average.module
        if self._average is not None:
            self.module.requires_grad_(False)
            for own, source in zip(self.module.parameters(), model.parameters(), strict=True):
                if not source.requires_grad:
                    own.data = source.data

    @torch.no_grad()
    def update(self, number: int, skipped: Tensor) -> None:
        """Take in the weights after update ``number`` of the run, counted from 1, unless it was ``skipped`` (a bool
        scalar, on the weights' device: the host does not wait for it)."""
        if self._average is None:
            return
        share = (1 - self._average.get_decay(number)) * ~skipped
        for own, source in zip(self.module.state_dict().values(), self.model.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(source, share)
            else:
                own.copy_(source)

    @property
    def is_plain(self) -> bool:
        """Whether what trains is what is kept: no average, no adapters."""
        return self._average is None and not has_adapters(self.model)

    def inference_state(self) -> dict[str, Tensor]:
        """What inference loads: the weights to evaluate, adapters merged."""
        return merged_state(self.module)

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from: ``model``, and ``average`` if there is one."""
        state = {"model": self.model.state_dict()}
        return state if self._average is None else state | {"average": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        """Go on from a :meth:`state_dict` of the same kind, which ``source`` held.

        Raises:
            DefectError: it is of another model.
        """
        load_model_state(self.model, state["model"], source)
        if self._average is not None:
            load_model_state(self.module, state["average"], source)
