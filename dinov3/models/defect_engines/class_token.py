"""The network's own description of an image, taken where it passes on its way to the classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ClassToken:
    """Sees the backbone's class token, or of a ConvNet the mean of its last map, whenever a model runs.

    Args:
        model: an :class:`~dinov3.models.defect_classifier.AttentionGuidedDefectClassifier`, perhaps in a wrapper.

    Attributes:
        exists: whether the model has one; other models have none.
    """

    def __init__(self, model: nn.Module):
        norms = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "token_norm"]
        self.exists, self._seen = len(norms) == 1, None
        if self.exists:
            norms[0].register_forward_pre_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen = inputs[0]

    def take(self, count: int | None = None) -> Tensor | None:
        """(B, D) float32 of the last run, or of its first ``count`` images; None if there is none. Mirror images of
        test-time augmentation come after the images themselves."""
        seen, self._seen = self._seen, None
        return None if seen is None else seen[:count].float()
