"""The model with two answers.

Shapes: B batch, H x W input, D embedding width, C decoder channels, h x w decoder grid, K classes,
S mask channels (1, or the number of defect types).
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinov3.models import defect_layers
from dinov3.models.defect_decoder import DecoderName, build_decoder, feature_levels
from dinov3.models.defect_guidance import fuse_scores, pooling_weights, uniform_weights
from dinov3.models.defect_loss import DynamicWeightScheduler, MultiTaskLoss
from dinov3.models.defect_novelty import Novelty, novelty_level

# The model is imported together with what trains it.
__all__ = ["AttentionGuidedDefectClassifier", "DynamicWeightScheduler", "MultiTaskLoss"]

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
        decoder: ``full`` (mask at full resolution), ``multiscale`` (at stride 4) or ``light`` (one value per patch).
        guidance: ``mask`` pools features where the predicted mask is, ``none`` pools them evenly (the plain
            dual branch: same parameters, no link from mask to class).
        score_fusion: in eval mode, the defect logit is the mean of the classifier's and the mask's maximum
            (:func:`~dinov3.models.defect_guidance.fuse_scores`). Only with ``guidance='mask'``, and of use only if
            trained on masks.

    Attributes:
        class_trains_decoder: share of the class loss's gradient that enters the decoder, 0 to 1. What tells classes
            apart on training parts is no outline, so that masks alone train it by default; of defects without a mask,
            their class is all that it can learn from.

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
        decoder: DecoderName = "full",
        guidance: GuidanceName = "mask",
        score_fusion: bool = True,
    ):
        super().__init__()
        actual = getattr(backbone, "embed_dim", embed_dim)
        if actual != embed_dim:
            raise ValueError(f"embed_dim is {embed_dim}, but the backbone's is {actual}; pass embed_dim={actual}")
        if guidance not in ("mask", "none"):
            raise ValueError(f"guidance is {guidance!r}; expected 'mask' or 'none'")
        self.backbone = backbone
        self.guidance = guidance
        self.score_fusion = score_fusion and guidance == "mask"
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
        self.class_trains_decoder = 0.0  # share of the class loss's gradient that enters the decoder
        self.backbone_frozen, self.batch_norm_frozen = False, False
        self.novelty: Novelty | None = None  # fitted after training, for eval mode

    def freeze_backbone(self, frozen: bool = True, unfreeze_last: int = 0) -> None:
        """Stop (or resume) training the backbone. Frozen, it stays in eval mode and runs without a graph.

        Args:
            frozen: whether the backbone stops training.
            unfreeze_last: its last layers that train all the same.

        Raises:
            DefectError: the backbone has fewer layers.
        """
        self.backbone_frozen = frozen and unfreeze_last == 0
        self.backbone.requires_grad_(not frozen)
        if unfreeze_last:
            defect_layers.unfreeze_last(self.backbone, unfreeze_last)
        self.train(self.training)

    def freeze_batch_norm(self) -> None:
        """Keep the statistics of the backbone's BatchNorms as they are from now on: those of pretraining hold for parts
        never seen, those of small batches of a few parts do not."""
        self.batch_norm_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> AttentionGuidedDefectClassifier:
        """As ``nn.Module.train``, except that frozen parts of the backbone and frozen BatchNorms stay in eval mode."""
        super().train(mode)
        defect_layers.hold_frozen_parts(self.backbone, self.batch_norm_frozen)
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
            ``seg_prob`` (B, S, h, w): mask probabilities on the grid of the decoder's features (of the padded input).
            ``attention_map`` (B, 1, h, w), only if asked for: the pooling weights, which add up to 1 per image.
            ``novelty`` (B, 1, H, W), only of a model that has learned what good parts look like, in eval mode: how
            unlike them each place is, in standard deviations (:class:`~dinov3.models.defect_novelty.Novelty`).
        """
        height, width = images.shape[-2:]
        padded, token, maps = self.encode(images)
        mask_logits, features = self.decoder(padded, maps)
        seg_prob = mask_logits.float().sigmoid()
        if mask_logits.shape[-2:] != features.shape[-2:]:  # each place looks as defective as its worst pixel
            seg_prob = F.max_pool2d(seg_prob, 4, ceil_mode=True)
        attention = pooling_weights(seg_prob) if self.guidance == "mask" else uniform_weights(seg_prob)
        pooled = (features.float() * attention).sum(dim=(2, 3))  # (B, C)
        if self.training:
            pooled = pooled.detach().lerp(pooled, self.class_trains_decoder)
        logits = self.classifier(torch.cat([self.token_norm(token), self.pooled_norm(pooled)], dim=1))
        segmentation = mask_logits
        if mask_logits.shape[-2:] != padded.shape[-2:]:
            segmentation = F.interpolate(mask_logits, padded.shape[-2:], mode="bilinear")
        segmentation = segmentation[..., :height, :width]
        if (
            self.score_fusion and not self.training
        ):  # fused in training, a good mask would leave the head nothing to learn
            logits = fuse_scores(logits, segmentation)
        outputs = {"segmentation": segmentation, "seg_prob": seg_prob}
        if self.novelty is not None and not self.training:
            logits, beyond = self.novelty(logits, novelty_level(maps))
            outputs["novelty"] = F.interpolate(beyond, padded.shape[-2:], mode="bilinear")[..., :height, :width]
        outputs["classification"] = logits
        if return_attention:
            outputs["attention_map"] = attention
        return outputs
