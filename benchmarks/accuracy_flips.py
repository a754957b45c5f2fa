"""Test-time flips: a model's mean answer over an image and its mirror images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLIPS = ((), (3,), (2,), (2, 3))  # axes of (B, C, H, W)


class FlipAveraged(nn.Module):
    """Answers as ``model`` does, with probabilities averaged over the image as it is, mirrored left to right, top to
    bottom, and both; four times the work. What a mirrored image changes in the answer is chance rather than evidence.

    Args:
        model: with the outputs of :class:`AttentionGuidedDefectClassifier`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """As the model's: logits are those of the mean probabilities."""
        options = {"return_attention": True} if return_attention else {}
        sums: dict[str, Tensor] = {}
        for axes in FLIPS:
            outputs = self.model(images.flip(axes) if axes else images, **options)
            parts = {"classification": outputs["classification"].float().softmax(1)}
            parts["segmentation"] = outputs["segmentation"].float().sigmoid()
            parts |= {name: value for name, value in outputs.items() if name not in parts}
            for name, value in parts.items():
                value = value.flip(axes) if axes and value.ndim == 4 else value
                sums[name] = sums[name] + value if name in sums else value
        means = {name: total / len(FLIPS) for name, total in sums.items()}
        means["classification"] = means["classification"].clamp_min(1e-12).log()
        means["segmentation"] = torch.logit(means["segmentation"], eps=1e-6)
        return means
