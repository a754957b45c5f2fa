"""Joint image and mask transforms (torchvision v2); images stay uint8 until they are on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from dinov3.data.defect_masks import IGNORE_INDEX
from dinov3.defect_size import ImageSize, height_width

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look
# 256 equally likely values of the normal distribution, scaled to unit deviation.
_QUANTILES = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
NORMAL_VALUES = (_QUANTILES / _QUANTILES.std(correction=0)).numpy()


# --- what augmentations do to pixels, by OpenCV: 3 to 100 times as fast as torchvision's uint8 operations on a CPU.
# Images are (3, H, W) uint8 tensors with memory in the order (H, W, 3), as files are decoded; results are new tensors
# of that kind.


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


# --- the transforms


class Resize(nn.Module):
    """To exactly ``size``, whatever the shape: antialiased for the image, nearest neighbour for the mask, pixel centers
    kept aligned.

    Image and mask may come in different sizes, as an image may be decoded at a fraction of its size.
    """

    def __init__(self, size: ImageSize):
        super().__init__()
        self.size = list(height_width(size))

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        resized = v2.functional.resize(image, self.size, antialias=True)
        resized = image.clone() if resized is image else resized  # what comes out can be written to
        if mask is None:
            return resized
        return resized, resize_mask(mask, self.size)


def _within(low: float, high: float) -> float:
    return torch.empty(()).uniform_(low, high).item()


class RandomAffine(nn.Module):
    """Rotation by up to ``degrees`` either way, shift by up to ``shift`` of each side, scale within ``scale``; what
    comes in from outside is grey, and ignored in the mask."""

    def __init__(self, degrees: float, shift: float, scale: tuple[float, float]):
        super().__init__()
        self.degrees, self.shift, self.scale = degrees, shift, scale

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        height, width = mask.shape
        angle, scale = _within(-self.degrees, self.degrees), _within(*self.scale)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
        matrix[0, 2] += _within(-self.shift, self.shift) * width
        matrix[1, 2] += _within(-self.shift, self.shift) * height
        return warp(image, mask, matrix, (124, 116, 104), IGNORE_INDEX)


class RandomGamma(nn.Module):
    """Exposure as cameras vary it: ``value ** gamma``, gamma drawn log-uniformly from [1 / limit, limit]."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
        table = v2.functional.adjust_gamma(values, self.limit ** _within(-1.0, 1.0))
        return look_up(image, table.flatten()), mask


class RandomColor(nn.Module):
    """Brightness, contrast and saturation times a factor within 1 - limit .. 1 + limit each, hue turned by up to
    ``hue`` of the color circle; all at once, in one matrix."""

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float):
        super().__init__()
        self.limits, self.hue = (brightness, contrast, saturation), hue

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        factors = [_within(1 - limit, 1 + limit) for limit in self.limits]
        mean = LUMA @ image[:, ::4, ::4].float().mean(dim=(1, 2)).numpy()  # a sixteenth of the pixels will do
        return mix_channels(image, color_matrix(*factors, hue=_within(-self.hue, self.hue), mean=mean)), mask


class RandomBlur(nn.Module):
    """Gaussian blur, its sigma drawn from 0.1 to ``limit`` pixels."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return blur(image, _within(0.1, self.limit)), mask


class RandomNoise(nn.Module):
    """Gaussian sensor noise; its standard deviation is drawn from [0, limit] grey values."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return add_noise(image, _within(0, self.limit)), mask


def eval_transform(image_size: ImageSize) -> nn.Module:
    """Resize to ``image_size``."""
    return Resize(image_size)


def train_transform(image_size: ImageSize) -> v2.Transform:
    """Resize, then geometry and appearance at random.

    Flips; now and then a right-angle turn (of squares alone: a rectangle would need another shape), or shift, scale and
    rotation (what comes in from outside the frame is ignored in the mask), but mostly the orientation is kept: parts on
    a line come in one, and where grinding marks run and where an edge is says much about what is normal. Strong gamma,
    contrast and brightness, as exposure is what differs most between parts and shifts; mild colour; blur or noise.
    """
    height, width = height_width(image_size)
    turns = [v2.RandomApply([v2.RandomRotation((90, 90))], p=0.1)] if height == width else []
    return v2.Compose(
        [
            eval_transform(image_size),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            *turns,
            v2.RandomApply([RandomAffine(10, 0.08, (0.8, 1.25))], p=0.3),
            v2.RandomApply([RandomGamma(2.0)], p=0.7),
            v2.RandomApply([RandomColor(brightness=0.3, contrast=0.4, saturation=0.2, hue=0.02)], p=0.7),
            v2.RandomApply([v2.RandomChoice([RandomBlur(1.5), RandomNoise(10.0)])], p=0.3),
        ]
    )


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation, for images scaled to 0..1."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to normalised float, on their device; channels last, as convolutions run faster so."""
        images = images.contiguous(memory_format=torch.channels_last).float().div_(255.0)
        constants = (_channel_constants(tuple(values), images.device) for values in (self.mean, self.std))
        return v2.functional.normalize(images, *constants, inplace=True)


@lru_cache
def _channel_constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value per channel, on the device already: sending it with every batch would make the host wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
