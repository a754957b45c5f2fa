"""Answers averaged over mirror images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dinov3.data.defect_manifest import Manifest
from dinov3.inference.predictor import DefectPredictor
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_tta import FlipAugmented

pytestmark = pytest.mark.usefixtures("undrawn")


class Corner(nn.Module):
    """Says 'defect' as far as the top left pixel is bright, and marks bright pixels."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        score = images[:, 0, 0, 0]
        novelty = images[:, :1] + score[:, None, None, None]
        return {"classification": torch.stack([-score, score], 1), "segmentation": images[:, :1], "novelty": novelty}


def test_flips_average_probabilities_and_leave_masks_in_place() -> None:
    images = torch.zeros(2, 3, 4, 6)
    images[0, :, 0, 5] = 3.0  # the top right corner of the first image
    outputs = FlipAugmented(Corner())(images)
    even = torch.tensor([0.5, 0.5])
    expected = (torch.tensor([-3.0, 3.0]).softmax(0) + 3 * even) / 4
    torch.testing.assert_close(outputs["classification"].softmax(1), torch.stack([expected, even]))
    torch.testing.assert_close(outputs["segmentation"], images[:, :1])
    torch.testing.assert_close(outputs["novelty"], images[:, :1] + torch.tensor([0.75, 0.0])[:, None, None, None])


def test_a_checkpoint_calibrated_with_flips_answers_alike_for_mirror_images(
    trained: Path, squares: Manifest, script: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    shutil.copy(trained / "best_accuracy.pth", path)
    flags = ["--checkpoint", path, "--data_root", squares.root, "--num_workers", 0, "--device", "cpu"]
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def predict() -> tuple[float, float]:
        first, second = DefectPredictor.from_checkpoint(path, "cpu")([image, mirrored])
        return first.defect_probability, second.defect_probability

    plain = predict()
    assert abs(plain[0] - plain[1]) > 1e-5
    status, out, err = script("calibrate_defect_model", *flags, "--flips")
    assert status == 0 and "mirror images" in out, err
    averaged = predict()
    assert averaged[0] == pytest.approx(averaged[1], abs=1e-5)
    script("calibrate_defect_model", *flags)  # stays as it is
    assert load_checkpoint(path)["flips"]
    status, out, _ = script("evaluate_defect_model", *flags, "--split", "test")
    assert status == 0 and "image_ap" in out
    script("calibrate_defect_model", *flags, "--no-flips")
    assert predict() == pytest.approx(plain, abs=1e-6)
