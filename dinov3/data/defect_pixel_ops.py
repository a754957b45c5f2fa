"""What augmentations do to pixels, by OpenCV: 3 to 100 times as fast as torchvision's uint8 operations on a CPU.

Images are (3, H, W) uint8 tensors with memory in the order (H, W, 3), as files are decoded; results are new tensors of
that kind.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look
# 256 equally likely values of the normal distribution, scaled to unit deviation.
_QUANTILES = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
NORMAL_VALUES = (_QUANTILES / _QUANTILES.std(correction=0)).numpy()


def _pixels(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())


def _labels(mask: Tensor) -> np.ndarray:
    return np.ascontiguousarray(mask.as_subclass(Tensor).numpy())


def _image(pixels: np.ndarray) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def resize_mask(mask: Tensor, size: list[int]) -> tv_tensors.Mask:
    """(H, W) to ``size``: the pixel at the center of each new one. (torchvision's masks take the one at its top left,
    half a pixel off the image.)"""
    return tv_tensors.Mask(
        torch.from_numpy(cv2.resize(_labels(mask), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    )


def look_up(image: Tensor, table: Tensor) -> tv_tensors.Image:
    """Replace each value v by ``table[v]``; ``table`` is (256,) uint8."""
    return _image(cv2.LUT(_pixels(image), table.numpy()))


def mix_channels(image: Tensor, matrix: np.ndarray) -> tv_tensors.Image:
    """Each pixel's new RGB is ``matrix[:, :3] @ RGB + matrix[:, 3]``, rounded and cut to 0..255."""
    return _image(cv2.transform(_pixels(image), matrix))


def color_matrix(brightness: float, contrast: float, saturation: float, hue: float, mean: float) -> np.ndarray:
    """The (3, 4) matrix for :func:`mix_channels` that changes brightness, then contrast around ``mean`` (the image's
    luma, 0..255), then saturation, each a factor (1: no change), and turns the hue by ``hue`` of the colour circle.

    Brightness, contrast and saturation are those of torchvision's ColorJitter; the hue is turned around the grey axis,
    which for small turns is all but the same as in HSV.
    """
    cosine, sine = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue) / math.sqrt(3)
    turn = cosine * np.eye(3) + (1 - cosine) / 3 + sine * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    saturate = saturation * np.eye(3) + (1 - saturation) * LUMA
    offset = np.full((3, 1), (1 - contrast) * brightness * mean)  # grey, so the next steps leave it as it is
    return np.hstack([brightness * contrast * turn @ saturate, offset])


def warp(image: Tensor, mask: Tensor, matrix: np.ndarray, fill: tuple[int, int, int], mask_fill: int) -> tuple:
    """Move image (bilinear) and (H, W) mask (nearest) by a (2, 3) affine matrix; what comes in takes the fills."""
    size = mask.shape[::-1]
    moved = cv2.warpAffine(_pixels(image), matrix, size, flags=cv2.INTER_LINEAR, borderValue=fill)
    target = cv2.warpAffine(_labels(mask), matrix, size, flags=cv2.INTER_NEAREST, borderValue=mask_fill)
    return _image(moved), tv_tensors.Mask(torch.from_numpy(target))


def blur(image: Tensor, sigma: float) -> tv_tensors.Image:
    """Gaussian blur with a window of 5 x 5 pixels."""
    return _image(cv2.GaussianBlur(_pixels(image), (5, 5), sigma))


def add_noise(image: Tensor, sigma: float) -> tv_tensors.Image:
    """Add normal noise of ``sigma`` grey values, independent in each value, drawn from torch's global generator."""
    pixels = _pixels(image)
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    index = np.frombuffer(rng.bytes(pixels.size), np.uint8).reshape(pixels.shape)
    noise = cv2.LUT(index, (NORMAL_VALUES * sigma).astype(np.float32))
    return _image(cv2.add(pixels, noise, dtype=cv2.CV_8U))
