"""What the values of a defect mask mean, and reading and writing its palette PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from dinov3.data.defect_drawing import IGNORE_COLOR, class_color
from dinov3.data.defect_images import ImageReadError, open_image

if TYPE_CHECKING:
    from torch import Tensor

    Mask = TypeVar("Mask", np.ndarray, Tensor)

MASK_MODES = ("P", "L", "1")  # of Pillow; what training reads as class indices
IGNORE_INDEX = 255  # mask pixels of this value count for nothing, in losses and in metrics


def defect_pixels(mask: Mask) -> Mask:
    """Which pixels of a mask of class indices, of any shape, show a defect: bool, of the same shape and kind.

    Everything but 0, the background, and 255, which is ignored.
    """
    return (mask > 0) & (mask != IGNORE_INDEX)


def read_mask(path: Path | str) -> np.ndarray:
    """A palette mask written by :func:`write_mask`, as (H, W) uint8 class indices (255 = ignored)."""
    image = open_image(Path(path))
    if image.mode not in MASK_MODES:
        raise ImageReadError(f"{path}: a mask of mode {image.mode}; expected a palette or grey PNG of class indices")
    return np.asarray(image, dtype=np.uint8)


def _palette() -> list[int]:
    colors = [class_color(i) for i in range(IGNORE_INDEX)] + [IGNORE_COLOR]
    return [channel for color in colors for channel in color]


def is_own_palette(image: Image.Image) -> bool:
    """Whether a mask has the palette of :func:`write_mask`, so that 255 in it is what is ignored."""
    return image.mode == "P" and list(image.getpalette("RGB") or ()) == _palette()


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Save (H, W) uint8 class indices as a palette PNG, which is both exact and visible."""
    image = Image.fromarray(mask)
    image.putpalette(_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", compress_level=1)  # flat areas get small anyway, and are read much faster
