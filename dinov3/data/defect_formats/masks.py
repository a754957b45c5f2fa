"""Masks of unknown origin: which of their pixels are defective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.mask_rules import MaskRules, rules_of_one
from dinov3.data.defect_formats.mask_values import Remarks, Values, decode_values, marks
from dinov3.data.defect_images import ImageReadError, open_image
from dinov3.data.defect_masks import IGNORE_INDEX


def read_foreign_mask(
    path: Path | str, size: tuple[int, int], orientation: int = 1, rules: MaskRules | None = None
) -> tuple[np.ndarray, Remarks]:
    """A mask of unknown origin as (H, W) uint8, 1 where defective and 255 where ignored, and what had to be repaired
    (kind, details).

    Takes 0/1, 0/255, a grey, colour or index for each kind of defect (all but the background is defect), palettes, an
    alpha channel (what is less than half visible is none), 16 bit, and masks saved as JPEG or with soft edges (each
    area is cut at half of its own value). A mask of another size but the same shape is resized with nearest
    neighbour. A mask drawn on the image as stored, on its side, is turned upright with it.

    Args:
        path: the mask file.
        size: (height, width) of its image, upright.
        orientation: :func:`exif_orientation` of its image.
        rules: :func:`survey_masks` of all masks of its source; None to judge by this one alone.

    Raises:
        ImageReadError: unreadable, or of another aspect ratio than the image.
    """
    remarks: Remarks = []
    image = open_image(Path(path))
    height, width = size
    found = f"{image.width}x{image.height}, its image {width}x{height}"
    if not same_shape(image.size, (width, height)):
        if orientation < 5 or not same_shape(image.size, (height, width)):
            raise ImageReadError(f"{path}: the mask is {found}; expected the same shape")
        image = _turn(image, orientation)
        remarks.append(("mask drawn on the image as stored; turned upright with it", f"{orientation=}"))
    elif orientation > 1 and (orientation < 5 or same_shape(image.size, (height, width))):
        remarks.append(("mask of an image that EXIF turns, taken as drawn on the upright one", f"{orientation=}"))
    mask = foreground(image, Path(path).suffix.lower() in JPEG_SUFFIXES, remarks, rules)
    if mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        remarks.append(("mask of another size; resized", found))
    return mask, remarks


def marks_of(paths: Sequence[Path], rules: MaskRules | None = None) -> tuple[bool, bool]:
    """Whether any of these masks marks a defect, and whether any holds ignored pixels: what their image's verdict is
    made of, by the same reading as its pixels.

    Raises:
        ImageReadError: one of them is unreadable.
    """
    found = [foreground(open_image(path), path.suffix.lower() in JPEG_SUFFIXES, [], rules) for path in paths]
    return any((mask == 1).any() for mask in found), any((mask == IGNORE_INDEX).any() for mask in found)


def joined_masks(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(H, W) uint8 of several masks of one image: what any of them marks; ignored where one says so and none marks."""
    joined = np.zeros_like(masks[0])
    for value in (IGNORE_INDEX, 1):
        joined[np.any([mask == value for mask in masks], axis=0)] = value
    return joined


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two (width, height) have the same aspect ratio, but for rounding."""
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= 0.02


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def foreground(image: Image.Image, lossy: bool, remarks: Remarks, rules: MaskRules | None = None) -> np.ndarray:
    """(H, W) uint8, 1 where defective and 255 where ignored, of a mask image of any mode and origin.

    Args:
        image: the mask.
        lossy: it was a JPEG file.
        remarks: collects what had to be guessed or repaired, as (kind, details).
        rules: :func:`survey_masks` of all masks of its source; None to judge by this one alone.
    """
    values = decode_values(image, lossy, remarks)
    rules = rules_of_one(values, MaskRules()) if rules is None else rules
    background = rules.background_of(values)
    remarks += _guesses(values, background, rules)
    ignored = rules.ignored_in(values, background)
    held = np.isin(values.codes, ignored)
    if values.visible is not None:
        held &= values.visible
    if held.any():
        if rules.ignored is None:
            remarks.append(("255 beside class indices, taken as ignored (else: --mask_ignored none)", image.mode))
        values = replace(values, codes=np.where(held, np.asarray(max(background, 0), values.codes.dtype), values.codes))
    mask = marks(values, background, rules.reading, remarks).astype(np.uint8)
    mask[held] = IGNORE_INDEX
    return mask


def _guesses(values: Values, background: float, rules: MaskRules) -> Remarks:
    """What of the background was guessed and cannot be taken for granted."""
    if rules.background is not None:
        return []
    if background == -1:
        return [("mask drawn in the alpha channel", values.kind)]
    if values.kind == "palette" or background == 0 or (values.kind == "grey" and len(values.levels()) < 3):
        return []
    if values.kind == "colour":
        return [("mask without black; its commonest color taken as background", f"#{int(background):06x}")]
    return [("mask without 0; its commonest value taken as background", f"{background:g}")]
