"""From what a user has, a file or an array, to what the network takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dinov3.data.defect_images import read_for_size, to_rgb


class OpenedImage(NamedTuple):
    """An image in memory."""

    pixels: np.ndarray  # (h, w, 3) uint8 RGB, perhaps decoded at less than full size
    size: tuple[int, int]  # full height and width


def load_input(image: Any, decode_size: tuple[int, int] | None, white_level: int) -> OpenedImage:
    """Any image that the predictor accepts; files as :func:`~dinov3.data.defect_images.read_for_size` reads them.

    Args:
        decode_size: height and width that the image will be resized to; None: not at all.
        white_level: of the training images, which 16-bit images are scaled by.

    Raises:
        TypeError: something else.
        ImageReadError: a file that cannot be read.
    """
    if isinstance(image, (str, Path)):
        return OpenedImage(*read_for_size(image, decode_size, white_level))
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)  # as from a path
        return OpenedImage(np.asarray(to_rgb(image, white_level)), (image.height, image.width))
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):  # nobody has one without it
        image = image.permute(1, 2, 0).cpu().numpy() if image.ndim == 3 else image.cpu().numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        kind = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(
            f"image is a {kind}; expected a path, a PIL image, or a uint8 array (H, W, 3) or tensor (3, H, W)"
        )
    if image.shape[2:] == (1,):
        image = image[..., 0]
    return OpenedImage(np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(image)))), image.shape[:2])
