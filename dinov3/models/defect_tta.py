"""Test-time augmentation: a model's mean answer over an image and its mirror images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLIPS = ((), (3,), (2,), (2, 3))  # axes of (B, C, H, W)


class FlipAugmented(nn.Module):
    """Answers as ``model`` does, with probabilities averaged over the image as it is, mirrored left to right, top to
    bottom, and both; four times the work. What a mirrored image changes in the answer is chance rather than evidence.

    Args:
        model: with the outputs of :class:`AttentionGuidedDefectClassifier`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """As the model's. Class and mask logits are those of the mean probabilities, ``novelty`` is the mean, and all
        else is of the image as it is."""
        options = {"return_attention": True} if return_attention else {}
        outputs = self.model(torch.cat([images.flip(axes) for axes in FLIPS]), **options)
        parts = {name: values.unflatten(0, (len(FLIPS), -1)) for name, values in outputs.items()}
        class_prob = parts["classification"].float().softmax(2).mean(0)
        answers = {name: values[0] for name, values in parts.items()}
        answers["classification"] = class_prob.clamp_min(1e-12).log()
        mask_prob = _mean(parts["segmentation"].float().sigmoid())
        answers["segmentation"] = torch.logit(mask_prob, eps=1e-6)
        if "novelty" in parts:
            answers["novelty"] = _mean(parts["novelty"])
        return answers


def _mean(maps: Tensor) -> Tensor:
    """Of the maps (4, B, ...) of mirrored images, each mirrored back."""
    return torch.stack([values.flip(axes) for values, axes in zip(maps, FLIPS, strict=True)]).mean(0)
