"""What training minimises: the class loss and the mask loss, and the weights of both.

Shapes: B batch, H x W input, K classes, S mask channels (1, or the number of defect types).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinov3.data.defect_masks import IGNORE_INDEX, defect_pixels


class MultiTaskLoss(nn.Module):
    """``alpha`` times the class loss plus ``beta`` times the mask loss, fixed or learned.

    The class loss is cross-entropy or focal (Lin et al. 2017, arXiv 1708.02002); the mask loss is binary
    cross-entropy or focal per pixel, plus Dice (Milletari et al. 2016, arXiv 1606.04797) twice: over the batch, which
    large defects decide, and for each defect in an image (or type of defect there) by itself, averaged, so that a small
    one counts as much.

    Args:
        alpha, beta: the weights, 0 or more. Plain attributes: a schedule may set them before each epoch.
        use_uncertainty_weighting: learn the weights after Kendall et al. 2018 (arXiv 1705.07115):
            ``exp(-s) * loss + s / 2`` for each task. The log-variances ``s`` start where the weights equal
            ``alpha`` and ``beta``, are parameters for the optimizer (give them no weight decay), and are clamped
            to [-5, 5].
        class_loss: ``ce`` or ``focal``.
        mask_loss: ``bce_dice`` or ``focal_dice``.
        class_weights: (K,) factors per class, or None.
        label_smoothing: 0 to 1, for ``ce``.
        focal_gamma: the focusing exponent of both focal losses.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.5,
        use_uncertainty_weighting: bool = False,
        *,
        class_loss: Literal["ce", "focal"] = "ce",
        mask_loss: Literal["bce_dice", "focal_dice"] = "bce_dice",
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        focal_gamma: float = 2.0,
    ):
        super().__init__()
        if alpha < 0 or beta < 0:
            raise ValueError(f"alpha is {alpha} and beta is {beta}; expected 0 or more")
        if class_loss not in ("ce", "focal"):
            raise ValueError(f"class_loss is {class_loss!r}; expected 'ce' or 'focal'")
        if mask_loss not in ("bce_dice", "focal_dice"):
            raise ValueError(f"mask_loss is {mask_loss!r}; expected 'bce_dice' or 'focal_dice'")
        self.alpha, self.beta = alpha, beta
        self.class_loss, self.mask_loss = class_loss, mask_loss
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.use_uncertainty_weighting = use_uncertainty_weighting
        if use_uncertainty_weighting:
            start = torch.tensor([max(alpha, 1e-2), max(beta, 1e-2)])
            self.log_vars = nn.Parameter(-start.log())  # (2,): class, mask

    def forward(
        self,
        outputs: dict[str, Tensor],
        labels: Tensor,
        masks: Tensor,
        has_mask: Tensor | None = None,
        *,
        batch_total: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            outputs: the model's output.
            labels: (B,) class indices; a negative label (verdict unknown) contributes no class loss.
            masks: (B, H, W) or (B, 1, H, W), class per pixel: 0 background, 255 ignored. With S = 1 every other
                value is defect; with S > 1 value s belongs to channel s - 1.
            has_mask: (B,) bool, False where ``masks`` holds nothing; None means that all have one.
            batch_total: makes sums over this batch sums over a larger one of which it is a part, for training in
                several processes.

        Returns:
            ``total_loss`` (to call backward on), ``cls_loss``, ``seg_loss``, and the weights in force ``alpha`` and
            ``beta``; all scalars. A loss without any sample to count is 0.
        """
        return self.combine(batch_total(self.sums(outputs, labels, masks, has_mask)))

    def sums(self, outputs: dict[str, Tensor], labels: Tensor, masks: Tensor, has_mask: Tensor | None = None) -> Tensor:
        """(8 + 2 S,) sums over a batch, all that its losses depend on; added up, those of its parts are its own."""
        known, present = (labels >= 0).sum(), labels.new_tensor(len(labels)) if has_mask is None else has_mask.sum()
        return torch.cat(
            [
                torch.stack([known.float(), present.float()]),
                self._class_sums(outputs["classification"].float(), labels),
                self._mask_sums(outputs["segmentation"].float(), masks, has_mask),
            ]
        )

    def combine(self, sums: Tensor) -> dict[str, Tensor]:
        """The losses, as :meth:`forward` returns them, from :meth:`sums`."""
        channels = (len(sums) - 8) // 2
        counts, overlap, area = sums.split([8, channels, channels])
        known, present, class_sum, weight, pixel_sum, pixels, single_sum, defects = counts
        cls_loss = class_sum / weight.clamp_min(1e-6)
        dice_loss = dice(overlap, area).mean() * (pixels > 0) + single_sum / defects.clamp_min(1.0)
        seg_loss = pixel_sum / (pixels * channels).clamp_min(1.0) + dice_loss
        if self.use_uncertainty_weighting:
            # Clamped in value but not in gradient, so that a weight at the limit can come back.
            log_vars = self.log_vars + (self.log_vars.clamp(-5.0, 5.0) - self.log_vars).detach()
            alpha, beta = (-log_vars).exp()
            # A task without a sample in this batch says nothing about its own uncertainty.
            taught = torch.stack([known, present]) > 0
            total = alpha * cls_loss + beta * seg_loss + (0.5 * log_vars * taught).sum()
        else:
            # Filled on the device: a number sent there would make the host wait.
            alpha, beta = torch.full_like(cls_loss, self.alpha), torch.full_like(cls_loss, self.beta)
            total = alpha * cls_loss + beta * seg_loss
        parts = {"cls_loss": cls_loss, "seg_loss": seg_loss, "alpha": alpha, "beta": beta}
        return {"total_loss": total} | {name: value.detach() for name, value in parts.items()}

    def _class_sums(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(2,): loss and weight."""
        known = labels >= 0
        target = labels.clamp_min(0)
        smoothing = self.label_smoothing if self.class_loss == "ce" else 0.0
        loss = F.cross_entropy(logits, target, self.class_weights, reduction="none", label_smoothing=smoothing)
        weight = known.float() if self.class_weights is None else known * self.class_weights[target]
        if self.class_loss == "focal":
            probability = logits.softmax(1).gather(1, target[:, None])[:, 0]
            loss = (1 - probability) ** self.focal_gamma * loss
        return torch.stack([(loss * known).sum(), weight.sum()])

    def _mask_sums(self, logits: Tensor, masks: Tensor, has_mask: Tensor | None) -> Tensor:
        """(4 + 2 S,): loss per pixel and channel, pixels; Dice loss of each image and channel that shows a defect, and
        how many do; overlap of prediction and mask, and the area of both, per channel."""
        masks = masks.reshape(masks.shape[0], *masks.shape[-2:])
        if masks.shape[-2:] != logits.shape[-2:]:
            raise ValueError(f"masks are {tuple(masks.shape[-2:])}, the mask logits {tuple(logits.shape[-2:])} pixels")
        valid = masks != IGNORE_INDEX
        if has_mask is not None:
            valid = valid & has_mask[:, None, None]
        valid = valid[:, None].float()  # (B, 1, H, W)
        target = mask_targets(masks, logits.shape[1]) * valid
        pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        probability = logits.sigmoid()
        if self.mask_loss == "focal_dice":
            error = probability * (1 - target) + (1 - probability) * target
            pixel = error**self.focal_gamma * pixel
        probability = probability * valid
        overlap = (probability * target).sum(dim=(2, 3))  # (B, S)
        area = (probability + target).sum(dim=(2, 3))
        shown = (target.sum(dim=(2, 3)) > 0).float()
        parts = [(pixel * valid).sum(), valid.sum(), (dice(overlap, area) * shown).sum(), shown.sum()]
        return torch.cat([torch.stack(parts), overlap.sum(0), area.sum(0)])


def dice(overlap: Tensor, area: Tensor) -> Tensor:
    """Dice loss, 0 to 1, of the overlap of prediction and mask, and the area of both; 0 where both are empty."""
    return 1 - (2 * overlap + 1) / (area + 1)


def mask_targets(masks: Tensor, seg_channels: int) -> Tensor:
    """Float targets (B, S, H, W) of class-index masks (B, H, W); ignored pixels come out as 0."""
    if seg_channels == 1:
        return defect_pixels(masks)[:, None].float()
    classes = torch.arange(1, seg_channels + 1, device=masks.device).view(1, -1, 1, 1)
    return (masks[:, None] == classes).float()


class DynamicWeightScheduler:
    """Moves the loss weights linearly from mask first (a good mask is what guides the class) to class first.

    Args:
        alpha_start, alpha_end: class weight at epoch 0 and from ``warmup_epochs`` on.
        beta_start, beta_end: mask weight, likewise.
        warmup_epochs: length of the ramp in epochs; 0 means the end values at once.
    """

    def __init__(
        self,
        alpha_start: float = 0.5,
        alpha_end: float = 1.0,
        beta_start: float = 1.0,
        beta_end: float = 0.3,
        warmup_epochs: int = 20,
    ):
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {warmup_epochs}; expected 0 or more")
        self.alpha_start, self.alpha_end = alpha_start, alpha_end
        self.beta_start, self.beta_end = beta_start, beta_end
        self.warmup_epochs = warmup_epochs

    def get_weights(self, epoch: int) -> tuple[float, float]:
        """``(alpha, beta)`` for an epoch counted from 0: a function of the epoch alone."""
        t = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        alpha = self.alpha_start + t * (self.alpha_end - self.alpha_start)
        beta = self.beta_start + t * (self.beta_end - self.beta_start)
        return alpha, beta
