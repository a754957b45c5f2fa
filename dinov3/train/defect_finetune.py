"""How a pretrained backbone is fine-tuned: what the settings come to for it, and what they do to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from dinov3._official import load_official_backbone
from dinov3.data.defect_manifest import Manifest
from dinov3.defect_cli import with_today_names
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_layers import checkpoint_activations, set_drop_path
from dinov3.models.defect_lora import add_lora
from dinov3.train.defect_config import TrainConfig

LARGE = 1024  # width from which a ViT is ViT-L or larger


def resolve(
    config: TrainConfig, backbone: nn.Module, has_masks: bool, resumed: dict[str, Any] | None = None
) -> TrainConfig:
    """``config`` with a value for each setting that was left to depend on the backbone or the data.

    Args:
        backbone: as :func:`build_backbone` makes it.
        has_masks: whether enough defect images have a mask
            (:func:`~dinov3.train.defect_data.enough_masks`).
        resumed: the checkpoint to go on from: where its run started, and the batch that --auto_batch found for it,
            stay what they were.
    """
    found: dict[str, Any] = {}
    if resumed is not None:
        before = with_today_names(TrainConfig, resumed["config"])
        found["init_from"] = Path(before["init_from"]) if before["init_from"] is not None else None
        if config.auto_batch:
            found |= {"batch_size": before["batch_size"], "accumulate": before["accumulate"]}
        config = replace(config, **found)
    is_vit, is_pretrained = not hasattr(backbone, "embed_dims"), config.weights != "none"
    trains = not config.freeze_backbone or config.unfreeze_last > 0
    scale, decay = backbone_rates(is_vit, is_pretrained or config.init_from is not None)
    if config.lora_rank:  # adapters start at zero and cannot spoil the weights they sit on
        scale, decay = 1.0, 1.0
    defaults = {
        "score_fusion": config.guidance == "mask" and has_masks,
        "freeze_batch_norm": is_pretrained,
        "grad_checkpointing": is_vit and backbone.embed_dim >= LARGE and trains,
        "backbone_lr_scale": scale,
        "layer_decay": decay,
    }
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def load_backbone(config: TrainConfig, weights: str) -> nn.Module:
    """The backbone that ``config`` names, with these ``weights``."""
    if config.dinov3_repo is not None:
        return load_official_backbone(config.dinov3_repo, config.backbone, weights)
    return build_backbone(config.backbone, weights)


def build_model(config: TrainConfig, backbone: nn.Module, manifest: Manifest) -> AttentionGuidedDefectClassifier:
    """The model of a resolved ``config`` for the classes of ``manifest``."""
    return AttentionGuidedDefectClassifier(
        backbone,
        backbone.embed_dim,
        len(manifest.classes),
        len(manifest.mask_classes),
        config.dropout,
        decoder=config.decoder,
        guidance=config.guidance,
        score_fusion=config.score_fusion,
    )


def prepare_backbone(model: AttentionGuidedDefectClassifier, config: TrainConfig) -> None:
    """Freeze, adapt and regularize the backbone as a resolved ``config`` says.

    Raises:
        DefectError: this backbone cannot follow.
    """
    backbone = model.backbone
    model.freeze_backbone(config.freeze_backbone or config.unfreeze_last > 0, config.unfreeze_last)
    if config.lora_rank:
        add_lora(backbone, config.lora_rank)
    if config.freeze_batch_norm:
        model.freeze_batch_norm()
    if config.drop_path:
        set_drop_path(backbone, config.drop_path)
    if config.grad_checkpointing:
        checkpoint_activations(backbone)


def backbone_rates(is_vit: bool, is_pretrained: bool) -> tuple[float, float]:
    """How fast a backbone's last layer learns, as a share of the heads' rate, and each layer below, of the one above.

    Dense fine-tuning of DINOv2 and DINOv3 is published with a tenth and 0.8 (EoMT, arXiv 2503.19108: 1e-4 and 0.8 at
    batch 16). Random weights have nothing to forget. A fifth for a ConvNet: benchmarks/accuracy.py, on unseen parts.
    """
    return 0.1 if is_vit else 0.2 if is_pretrained else 0.5, 0.8 if is_vit and is_pretrained else 1.0
