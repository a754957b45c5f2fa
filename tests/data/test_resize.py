"""The resize of inspection gives the bits of torchvision's, which training uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from dinov3.data.defect_images import read_image
from dinov3.data.defect_resize import resize_image


def differing(pixels: np.ndarray, size: tuple[int, int]) -> int:
    expected = functional.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), list(size), antialias=True)
    resized = resize_image(pixels, size)
    assert resized.shape == (*size, 3) and resized.dtype == np.uint8
    return int(np.count_nonzero(resized != expected.permute(1, 2, 0).numpy()))


def test_no_value_of_200_images_differs() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        before, after = rng.integers(1, (400, 500)), rng.integers(1, (260, 250))
        pixels = rng.integers(0, 256, (*before, 3), dtype=np.uint8)
        if number % 4 == 1:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)  # grey
        if number % 4 == 2:
            pixels = (pixels > 127).astype(np.uint8) * 255
        assert not differing(pixels, tuple(after.tolist())), (number, before, after)


@pytest.mark.parametrize("before", [(224, 224), (224, 448), (1200, 31), (2000, 1500), (7, 5), (1, 1)])
def test_sizes_at_the_edges(before: tuple[int, int]) -> None:
    """One side or both stay; far down, where float32 could not hold the sums; far up."""
    pixels = np.random.default_rng(1).integers(0, 256, (*before, 3), dtype=np.uint8)
    assert not differing(pixels, (224, 224)) and not differing(pixels[:, ::-1], (97, 224))
    assert not differing(np.full_like(pixels, 255), (224, 97))


def test_no_value_of_real_images_differs(magnetic_tile) -> None:
    for path in sorted((magnetic_tile / "MT_Blowhole").rglob("*.jpg"))[:20]:
        assert not differing(read_image(path), (224, 224))
