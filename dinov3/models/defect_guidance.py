"""How the mask guides the class: where the classifier looks, and how the scores of both are fused.

Shapes: B batch, S mask channels, K classes, h x w decoder grid, H x W input.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pooling_weights(seg_prob: Tensor, floor: float = 1e-3) -> Tensor:
    """Where the classifier looks: (B, 1, h, w), adding up to 1, from mask probabilities (B, S, h, w).

    The mask of any defect type counts. ``floor`` is what a pixel weighs without any evidence: on a clean image
    (mask near zero everywhere) the pooling turns smoothly into the mean over the image, and nothing is divided
    by zero; a defect of a hundredth of the image at probability 1 still gets 91% of the weight.
    """
    guidance = seg_prob.amax(dim=1, keepdim=True) + floor
    return guidance / guidance.sum(dim=(2, 3), keepdim=True)


def uniform_weights(seg_prob: Tensor) -> Tensor:
    """Even pooling weights (B, 1, h, w) for ``guidance='none'``."""
    return torch.full_like(seg_prob[:, :1], 1.0 / seg_prob[0, 0].numel())


def fuse_scores(classification: Tensor, segmentation: Tensor) -> Tensor:
    """Class logits (B, K) whose defect log-odds are the mean of the classifier's and the mask's maximum; which kind of
    defect it is remains the classifier's answer.

    Both err, each in its own way, on a part never seen. A mean of log-odds is the geometric pooling of two opinions
    (Genest and Zidek 1986).

    Args:
        classification: (B, K) class logits, class 0 normal.
        segmentation: (B, S, H, W) mask logits.
    """
    logits = classification.float()
    of_class = logits[:, 1:].logsumexp(dim=1) - logits[:, 0]  # (B,) log-odds
    of_mask = segmentation.float().amax(dim=(1, 2, 3))
    shift = (of_mask - of_class) / 2
    return torch.cat([logits[:, :1], logits[:, 1:] + shift[:, None]], dim=1)
