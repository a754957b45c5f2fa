"""Folding BatchNorm changes the speed and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_fuse_bn import fuse_batch_norms


class Small(nn.Module):
    """Convolution, norm, ReLU; ``shared``: what the convolution gives is used beside the norm, too."""

    def __init__(self, shared: bool):
        super().__init__()
        self.shared = shared
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"out": self.norm(x).relu() + (x if self.shared else 0)}


@pytest.mark.parametrize("shared", [False, True])
def test_a_norm_is_fused_only_where_that_changes_nothing(shared: bool) -> None:
    torch.manual_seed(0)
    model = Small(shared).eval()
    plain, image = copy.deepcopy(model), torch.randn(2, 3, 20, 20)
    assert fuse_batch_norms(model, 16) == (0 if shared else 1)
    assert isinstance(model.norm, nn.BatchNorm2d if shared else nn.Identity)
    torch.testing.assert_close(model(image)["out"], plain(image)["out"])


def test_a_trained_model_gives_the_same_fused(trained: Path) -> None:
    path = trained / "best_accuracy.pth"
    plain = restore_model(load_checkpoint(path), path)
    fused = DefectPredictor.from_checkpoint(path, device="cpu").engine.model
    left = [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) < 0.1 * sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        one, other = plain(images), fused(images)
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-4, atol=1e-4)
