"""Models, checkpoints and folders for tests of exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinov3.defect_size import ImageSize, height_width
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_novelty import Novelty


@torch.no_grad()
def wake(model: nn.Module) -> nn.Module:
    """Random weights under which every layer matters: with timm's LayerScale of 1e-5 each block passes its input on,
    and with a mask bias of -4.6 each mask is empty. In eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if "gamma" in name:
            value.fill_(0.3)
        elif name.endswith("head.bias"):
            value.fill_(0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def write_checkpoint(
    path: Path,
    backbone_name: str = "efficientnet_lite0",
    *,
    size: ImageSize = 32,
    classes: int = 2,
    masks: int = 1,
    novelty: bool = False,
    config: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A checkpoint of a random model whose every layer matters; ``more`` are other fields of it."""
    torch.manual_seed(0)
    config = {"dropout": 0.2, "decoder": "multiscale", "guidance": "mask", "score_fusion": True} | (config or {})
    backbone = build_backbone(backbone_name, "none")
    options = {name: config[name] for name in ("decoder", "guidance", "score_fusion")}
    model = wake(AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, classes, masks, **options))
    content: dict[str, Any] = {
        "model": model.state_dict(),
        "config": config,
        "backbone": backbone_name,
        "classes": ["normal", *(f"type_{i}" for i in range(1, classes))],
        "mask_classes": [f"type_{i}" for i in range(1, masks + 1)],
        "image_size": size,
        "normalization": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "thresholds": {"classification": 0.5, "mask": 0.5},
    }
    if novelty:
        with torch.no_grad():
            maps = model.encode(torch.randn(4, 3, *height_width(size)))[2][-2:][0]
        content["novelty"] = Novelty.fit([maps], [maps]).state_dict()
    save_checkpoint(path, content | more)
    return path


def change_checkpoint(source: Path, path: Path, **fields: Any) -> Path:
    """A copy with other fields."""
    save_checkpoint(path, load_checkpoint(source) | fields)
    return path
