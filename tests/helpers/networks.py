"""Small networks for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_facts import ModelFacts


class OfficialLike(nn.Module):
    """The official ViT's names, and nothing of its size: patches of 8, two blocks."""

    patch_size, embed_dim = 8, 16

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.storage_tokens = nn.Parameter(torch.zeros(1, 4, 16))
        self.patch_embed = nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.ModuleList(OfficialBlock() for _ in range(2))
        self.norm = nn.LayerNorm(16)

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return {"x_norm_clstoken": tokens.mean(1) + self.cls_token[0], "x_norm_patchtokens": tokens}


class OfficialBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.sample_drop_ratio = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x).tanh()


def build_model(name: str) -> AttentionGuidedDefectClassifier:
    torch.manual_seed(0)
    backbone = OfficialLike() if name == "official" else build_backbone(name, "none")
    return AttentionGuidedDefectClassifier(backbone, backbone.embed_dim)


def small_facts(**changes: Any) -> ModelFacts:
    """The facts about a model of two classes and one mask for images of 32 pixels."""
    facts: dict[str, Any] = {
        "classes": ("normal", "defect"),
        "mask_classes": ("defect",),
        "image_size": (32, 32),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "thresholds": {"classification": 0.5, "mask": 0.5},
        "backbone": "dinov3_vitt16",
    }
    return ModelFacts(**facts | changes)
