"""Results of a pass from tensors."""

from __future__ import annotations

from torch import Tensor

from dinov3.defect_evaluation.image_results import ImageResults


def add_all(
    results: ImageResults, class_prob: Tensor, mask_prob: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor
) -> None:
    """Add a batch of images."""
    answers = zip(class_prob.numpy(), mask_prob.numpy(), labels.tolist(), masks.numpy(), has_mask.tolist(), strict=True)
    for answer in answers:
        results.add(*answer)
