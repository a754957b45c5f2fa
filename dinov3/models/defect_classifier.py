"""The model with two answers, its loss, and the schedule of the loss weights.

Shapes: B batch, H x W input, D embedding width, C decoder channels, h x w decoder grid, K classes,
S mask channels (1, or the number of defect types).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinov3.data.defect_images import IGNORE_INDEX
from dinov3.models import defect_layers
from dinov3.models.defect_decoder import DecoderName, build_decoder, feature_levels
from dinov3.models.defect_guidance import joint_verdict, pooling_weights, uniform_weights
from dinov3.models.defect_novelty import Novelty, novelty_level

GuidanceName = Literal["mask", "none"]


class AttentionGuidedDefectClassifier(nn.Module):
    """Classify an image and outline its defects; the predicted mask tells the classifier where to look.

    Args:
        backbone: a module with DINOv3's interface: ``forward_features(x)`` returning ``x_norm_clstoken`` (B, D)
            and ``x_norm_patchtokens`` (B, N, D), and if possible ``get_intermediate_layers``. Official DINOv3
            modules, and everything from ``build_backbone``, fit.
        embed_dim: D, the width of the backbone's class token.
        num_classes: K; class 0 is normal.
        seg_channels: S; 1 for 'any defect', else one channel per defect type.
        dropout: in the classification head, 0 to 1.
        decoder: ``multiscale`` (mask at stride 4) or ``light`` (one value per patch).
        guidance: ``mask`` pools features where the predicted mask is, ``none`` pools them evenly (the plain
            dual branch: same parameters, no link from mask to class).
        mask_evidence: in eval mode the verdict is the :func:`~dinov3.models.defect_guidance.joint_verdict` of class
            head and mask. Only with ``guidance='mask'``, and worth something only if trained on masks.

    Raises:
        ValueError: ``embed_dim`` differs from ``backbone.embed_dim``, or an unknown decoder or guidance.
    """

    def __init__(
        self,
        backbone: nn.Module,
        embed_dim: int,
        num_classes: int = 2,
        seg_channels: int = 1,
        dropout: float = 0.2,
        *,
        decoder: DecoderName = "multiscale",
        guidance: GuidanceName = "mask",
        mask_evidence: bool = True,
    ):
        super().__init__()
        actual = getattr(backbone, "embed_dim", embed_dim)
        if actual != embed_dim:
            raise ValueError(f"embed_dim is {embed_dim}, but the backbone's is {actual}; pass embed_dim={actual}")
        if guidance not in ("mask", "none"):
            raise ValueError(f"guidance is {guidance!r}; expected 'mask' or 'none'")
        self.backbone = backbone
        self.guidance = guidance
        self.mask_evidence = mask_evidence and guidance == "mask"
        self.levels = feature_levels(backbone, embed_dim, decoder)
        # A ConvNet has several strides; padding to the largest one makes all its maps line up.
        self.pad_multiple = max(getattr(backbone, "patch_size", None) or 1, *(level.stride for level in self.levels))
        self.decoder = build_decoder(decoder, self.levels, seg_channels)
        self.token_norm = nn.LayerNorm(embed_dim)
        self.pooled_norm = nn.LayerNorm(self.decoder.channels)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(embed_dim + self.decoder.channels, 256),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )
        self.backbone_frozen, self.norms_rest = False, False
        self.novelty: Novelty | None = None  # fitted after training, for eval mode

    def freeze_backbone(self, frozen: bool = True, unfreeze_last: int = 0) -> None:
        """Stop (or resume) training the backbone. Frozen, it stays in eval mode and runs without a graph.

        Args:
            frozen: whether the backbone rests.
            unfreeze_last: its last layers that train all the same.

        Raises:
            DefectError: the backbone has fewer layers.
        """
        self.backbone_frozen = frozen and unfreeze_last == 0
        self.backbone.requires_grad_(not frozen)
        if unfreeze_last:
            defect_layers.unfreeze_last(self.backbone, unfreeze_last)
        self.train(self.training)

    def rest_norms(self) -> None:
        """Have the backbone's BatchNorms keep their statistics from now on: those of pretraining hold for parts never
        seen, those of small batches of a few parts do not."""
        self.norms_rest = True
        self.train(self.training)

    def train(self, mode: bool = True) -> AttentionGuidedDefectClassifier:
        """As ``nn.Module.train``, except that frozen parts of the backbone, and norms at rest, keep their eval mode."""
        super().train(mode)
        defect_layers.rest_frozen_parts(self.backbone, self.norms_rest)
        return self

    def _backbone_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Class token (B, D) and one map (B, c, h', w') per level; ``images`` are padded already."""
        if self.levels[0].index < 0:
            output = self.backbone.forward_features(images)
            stride = self.levels[0].stride
            grid = (images.shape[-2] // stride, images.shape[-1] // stride)
            return output["x_norm_clstoken"], [output["x_norm_patchtokens"].transpose(1, 2).unflatten(2, grid)]
        pairs = self.backbone.get_intermediate_layers(
            images, n=[level.index for level in self.levels], reshape=True, return_class_token=True, norm=True
        )
        return pairs[-1][1], [feature_map for feature_map, _ in pairs]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Images, as for :meth:`forward`, padded; the backbone's class token (B, D), and its map for each level."""
        height, width = images.shape[-2:]
        pad = (0, -width % self.pad_multiple, 0, -height % self.pad_multiple)
        padded = F.pad(images, pad, mode="replicate") if any(pad) else images
        with torch.no_grad() if self.backbone_frozen else contextlib.nullcontext():
            return padded, *self._backbone_features(padded)

    def forward(self, images: Tensor, return_attention: bool = False) -> dict[str, Tensor]:
        """Predict.

        Args:
            images: (B, 3, H, W), normalised as the backbone expects. Any H and W: the input is padded inside to
                the backbone's multiple, and the mask cropped back.
            return_attention: add ``attention_map``.

        Returns:
            ``classification`` (B, K): class logits.
            ``segmentation`` (B, S, H, W): mask logits at input size.
            ``seg_prob`` (B, S, h, w): mask probabilities on the decoder's grid (of the padded input).
            ``attention_map`` (B, 1, h, w), only if asked for: the pooling weights, which add up to 1 per image.
            ``novelty`` (B, 1, H, W), only of a model that has learned what good parts look like, in eval mode: how
            unlike them each place is, in standard deviations (:class:`~dinov3.models.defect_novelty.Novelty`).
        """
        height, width = images.shape[-2:]
        padded, token, maps = self.encode(images)
        mask_logits, features = self.decoder(padded, maps)
        seg_prob = mask_logits.float().sigmoid()
        attention = pooling_weights(seg_prob) if self.guidance == "mask" else uniform_weights(seg_prob)
        pooled = (features.float() * attention).sum(dim=(2, 3))  # (B, C)
        logits = self.classifier(torch.cat([self.token_norm(token), self.pooled_norm(pooled)], dim=1))
        segmentation = F.interpolate(mask_logits, padded.shape[-2:], mode="bilinear")[..., :height, :width]
        if self.mask_evidence and not self.training:  # each learns by itself: a mask that knows excuses the head
            logits = joint_verdict(logits, segmentation)
        outputs = {"segmentation": segmentation, "seg_prob": seg_prob}
        if self.novelty is not None and not self.training:
            logits, beyond = self.novelty(logits, novelty_level(maps))
            outputs["novelty"] = F.interpolate(beyond, padded.shape[-2:], mode="bilinear")[..., :height, :width]
        outputs["classification"] = logits
        if return_attention:
            outputs["attention_map"] = attention
        return outputs


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
        return ((masks > 0) & (masks != IGNORE_INDEX))[:, None].float()
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
