"""Joint image and mask transforms (torchvision v2); images stay uint8 until they are on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from dinov3.data.defect_images import IGNORE_INDEX


class RandomGamma(nn.Module):
    """Exposure as cameras vary it: ``value ** gamma``, gamma drawn log-uniformly from [1 / limit, limit]."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        exponent = torch.empty(()).uniform_(-1.0, 1.0).item()
        return v2.functional.adjust_gamma(image, self.limit**exponent), mask


class RandomNoise(nn.Module):
    """Gaussian sensor noise on uint8 images; its standard deviation is drawn from [0, limit] grey values."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        sigma = torch.rand(()).item() * self.limit
        noisy = image.float().add_(torch.randn(image.shape) * sigma)
        return tv_tensors.wrap(noisy.clamp_(0, 255).to(torch.uint8), like=image), mask


def eval_transform(image_size: int) -> v2.Transform:
    """Resize to ``image_size`` squared: antialiased for the image, nearest neighbour for the mask."""
    return v2.Resize((image_size, image_size), antialias=True)


def train_transform(image_size: int) -> v2.Transform:
    """Resize, then geometry and appearance at random.

    Flips; now and then a right-angle turn, or shift, scale and rotation (what comes in from outside the frame is
    ignored in the mask), but mostly the orientation is kept: parts on a line come in one, and where grinding marks
    run and where an edge is says much about what is normal. Strong gamma, contrast and brightness, as exposure is what
    differs most between parts and shifts; mild colour; blur or noise.
    """
    fill = {tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: IGNORE_INDEX, "others": None}
    affine = v2.RandomAffine(10, (0.08, 0.08), (0.8, 1.25), interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    return v2.Compose(
        [
            eval_transform(image_size),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.RandomRotation((90, 90))], p=0.1),
            v2.RandomApply([affine], p=0.3),
            v2.RandomApply([RandomGamma(2.0)], p=0.7),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.2, hue=0.02)], p=0.7),
            v2.RandomApply([v2.RandomChoice([v2.GaussianBlur(5, (0.1, 1.5)), RandomNoise(10.0)])], p=0.3),
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
        return v2.functional.normalize(images, list(self.mean), list(self.std), inplace=True)
