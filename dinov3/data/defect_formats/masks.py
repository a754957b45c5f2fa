"""Masks of unknown origin: which of their pixels are defective."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_images import ImageReadError, open_image


class Remark(NamedTuple):
    """What had to be repaired or guessed: ``detail`` is about this mask, ``kind`` the same for all alike."""

    kind: str
    detail: str


def read_foreign_mask(path: Path | str, size: tuple[int, int], orientation: int = 1) -> tuple[np.ndarray, list[Remark]]:
    """A mask of unknown origin as (H, W) uint8, 1 where defective, and what had to be repaired.

    Takes 0/1, 0/255, any other two values, class indices, RGB, palette, an alpha channel, 16 bit, and masks saved as
    JPEG or with soft edges (cut at half of the full value, which for a dark mask is its largest). A mask of another
    size but the same shape is resized with nearest neighbour. A mask drawn on the image as stored, on its side, is
    turned upright with it.

    Args:
        path: the mask file.
        size: (height, width) of its image, upright.
        orientation: :func:`exif_orientation` of its image.

    Raises:
        ImageReadError: unreadable, or of another aspect ratio than the image.
    """
    remarks: list[Remark] = []
    image = open_image(Path(path))
    height, width = size
    found = f"{image.width}x{image.height}, its image {width}x{height}"
    if not same_shape(image.size, (width, height)):
        if orientation < 5 or not same_shape(image.size, (height, width)):
            raise ImageReadError(f"{path}: the mask is {found}; expected the same shape")
        image = _turn(image, orientation)
        remarks.append(Remark("mask drawn on the image as stored; turned upright with it", f"{orientation=}"))
    elif orientation > 1 and (orientation < 5 or same_shape(image.size, (height, width))):
        remarks.append(Remark("mask of an image that EXIF turns, taken as drawn on the upright one", f"{orientation=}"))
    mask = foreground(image, Path(path).suffix.lower() in JPEG_SUFFIXES, remarks)
    if mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        remarks.append(Remark("mask of another size; resized", found))
    return mask, remarks


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two (width, height) have the same aspect ratio, but for rounding."""
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= 0.02


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def foreground(image: Image.Image, lossy: bool, remarks: list[Remark] | None = None) -> np.ndarray:
    """(H, W) uint8, 1 where defective, of a mask image of any mode and origin; ``lossy`` if it was a JPEG file.

    ``remarks`` collects what had to be guessed.
    """
    remarks = [] if remarks is None else remarks
    if image.mode == "P":
        return _foreground_of_palette(image)
    if len(image.getbands()) == 1:
        values = np.asarray(image)
    else:
        rgb = _over_black(image, remarks)
        values = rgb.max(axis=2)
        if not lossy and values.min() > 0 and (rgb.min(axis=2) < values).any():
            return _foreground_of_colors(rgb, remarks)
    levels = np.unique(values)
    if len(levels) == 2 and not lossy:
        return (values > levels[0]).astype(np.uint8)
    if len(levels) == 1 or (0 <= levels[0] and levels[-1] <= 32 and not lossy):
        return (values > 0).astype(np.uint8)  # all clean, all defective, or class indices
    dark = 32 < levels[-1] < 128  # white is not white in it, so that half of 255 would cut all of it away
    full = levels[-1] if levels[-1] > 255 or dark else 255 if levels[-1] > 1 else 1
    soft = float(((values > full * 0.1) & (values < full * 0.9)).mean())
    remarks.append(
        Remark("mask with soft edges or noise; cut at half", f"{len(levels)} grey values, {soft:.2%} in between")
    )
    return (values > full / 2).astype(np.uint8)


def _foreground_of_palette(image: Image.Image) -> np.ndarray:
    """All but the black index; all but index 0 if no index in use is black, or several are."""
    indices = np.asarray(image)
    colors = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    black = [i for i in np.unique(indices) if i < len(colors) and not colors[i].any()]
    return (indices != (black[0] if len(black) == 1 else 0)).astype(np.uint8)


def _over_black(image: Image.Image, remarks: list[Remark]) -> np.ndarray:
    """(H, W, 3) uint8: what is visible over black; where that is all black or all alike, the alpha channel itself."""
    if "A" not in image.getbands():
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3:]
    rgb = (rgba[..., :3].astype(np.uint16) * alpha // 255).astype(np.uint8)
    if rgb.min() == rgb.max() and alpha.min() < alpha.max():
        remarks.append(Remark("mask drawn in the alpha channel", image.mode))
        rgb = alpha.repeat(3, axis=2)
    return rgb


def _foreground_of_colors(rgb: np.ndarray, remarks: list[Remark]) -> np.ndarray:
    """All but the commonest color, for colors on a background that is not black."""
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colors, counts = np.unique(packed, return_counts=True)
    background = colors[counts.argmax()]
    remarks.append(Remark("mask without black; its commonest color taken as background", f"#{background:06x}"))
    return (packed != background).astype(np.uint8)
