"""Masks as a dataset keeps them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.image_files import save
from PIL import Image

from dinov3.data.defect_drawing import CLASS_COLORS, class_color
from dinov3.data.defect_images import ImageReadError
from dinov3.data.defect_masks import defect_pixels, read_mask, write_mask


def test_masks_survive_the_disk_and_can_be_seen(tmp_path):
    mask = np.array([[0, 1, 2], [9, 254, 255]], np.uint8)
    write_mask(tmp_path / "deep" / "m.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    with Image.open(tmp_path / "deep" / "m.png") as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colors[0], CLASS_COLORS[:3])
    assert tuple(colors[1, 2]) not in CLASS_COLORS  # ignored pixels look like no class
    assert class_color(8) == class_color(1) != class_color(0)


def test_a_color_image_is_no_mask(tmp_path):
    with pytest.raises(ImageReadError, match="mode RGB; expected a palette or grey PNG"):
        read_mask(save(tmp_path / "m.png", np.zeros((12, 20, 3), np.uint8)))


def test_defect_pixels_are_all_but_background_and_ignored_ones():
    mask = np.array([[0, 1, 2], [9, 254, 255]], np.uint8)
    expected = [[False, True, True], [True, True, False]]
    assert defect_pixels(mask).tolist() == defect_pixels(torch.from_numpy(mask)).tolist() == expected
