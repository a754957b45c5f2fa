"""The mask of an image in a dataset, from the regions or the mask files that its source has for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinov3.data.defect_formats.base import NORMAL, REGION_NOT_DRAWN, ImportReport, SourceImage
from dinov3.data.defect_formats.mask_rules import MaskRules
from dinov3.data.defect_formats.masks import joined_masks, read_foreign_mask
from dinov3.data.defect_formats.shapes import Shape, ShapeError
from dinov3.data.defect_formats.words import BACKGROUND, IGNORE
from dinov3.data.defect_images import ImageReadError, exif_orientation
from dinov3.data.defect_manifest import UNKNOWN
from dinov3.data.defect_masks import IGNORE_INDEX, defect_pixels

MOST_SHAPES = 10_000  # regions in one image; each is drawn over all of it


def draw_mask(
    sample: SourceImage,
    file: Path,
    size: tuple[int, int],
    mask_classes: Sequence[str],
    report: ImportReport,
    rules: MaskRules | None,
) -> np.ndarray | None:
    """(H, W) uint8: i + 1 where ``mask_classes[i]`` is, 255 where ignored; None where nothing is known.

    Args:
        sample: the image, with its final labels.
        file: its file.
        size: its (height, width), upright.
        mask_classes: the classes of the dataset's masks.
        report: collects what cannot be drawn.
        rules: how mask files are read; None: each by itself.
    """
    if sample.shapes is not None:
        mask = _draw_shapes(sample, size, mask_classes, report)
    elif sample.masks:
        mask = _read_masks(sample, file, size, mask_classes, report, rules)
    else:
        return None
    if mask is None:
        return None
    marked = defect_pixels(mask)
    if sample.label == NORMAL:
        if marked.any():
            kind = "defect pixels in the mask of a normal image; mask skipped"
            report.remarks[kind].append(f"{_origin(sample)}: {int(marked.sum())} pixels")
            return None
        return mask if mask.any() else None  # without ignored pixels, its mask is implied: all zero
    if sample.label == UNKNOWN or marked.any():
        return mask
    if sample.shapes is not None:
        return None
    report.remarks["defect images whose mask marks nothing"].append(_origin(sample))
    return mask


def _origin(sample: SourceImage) -> str:
    return ", ".join(map(str, sample.masks)) or sample.place


def _draw_shapes(
    sample: SourceImage, size: tuple[int, int], mask_classes: Sequence[str], report: ImportReport
) -> np.ndarray | None:
    if not sample.whole or not sample.shapes:
        return None  # a defect image of which no region is known
    if len(sample.shapes) > MOST_SHAPES:
        found = f"{sample.place}: {len(sample.shapes)} regions in one image, expected at most {MOST_SHAPES}"
        report.remarks[REGION_NOT_DRAWN].append(found)
        return None
    mask = np.zeros(size, np.uint8)
    try:
        # Few regions are background; all others are drawn one at a time, so that thousands of them take no memory.
        background = [shape for shape in sample.shapes if shape.label == BACKGROUND]
        cuts = [(shape, _drawn(shape, size, sample, report)) for shape in background if not shape.vague]
        others = [shape for shape in sample.shapes if shape.label != BACKGROUND]
        # Of one layer small regions stay visible on large ones; what is vague lies under everything.
        for shape in sorted(others, key=lambda shape: (not shape.vague, shape.z, -shape.area)):
            inside = left = _drawn(shape, size, sample, report)
            for cut, hole in cuts:
                if _cuts(cut, hole, shape, inside):
                    left = left & ~hole
            if inside.any() and not left.any():
                kind = "region that background covers wholly; it tells the class, but marks nothing"
                report.remarks[kind].append(f"{sample.place}: {shape.label}")
            mask[left] = IGNORE_INDEX if shape.vague or shape.label == IGNORE else mask_classes.index(shape.label) + 1
    except ShapeError as error:
        report.remarks[REGION_NOT_DRAWN].append(f"{sample.place}: {error}")
        return None
    return mask


def _drawn(shape: Shape, size: tuple[int, int], sample: SourceImage, report: ImportReport) -> np.ndarray:
    """(H, W) bool."""
    inside = shape.draw(*size)
    if not inside.any():
        report.remarks["region outside of its image, or between its pixels"].append(
            f"{sample.place}: {shape.label}, image of {size[1]}x{size[0]}"
        )
    return inside


def _cuts(cut: Shape, hole: np.ndarray, shape: Shape, inside: np.ndarray) -> bool:
    """Whether a region of background cuts another one: it lies above, or in the same layer, unless the other is a
    smaller one inside of it, as an island in a hole."""
    if cut.z != shape.z:
        return cut.z > shape.z
    return cut.area < shape.area or bool((inside & ~hole).any())


def _read_masks(
    sample: SourceImage,
    file: Path,
    size: tuple[int, int],
    mask_classes: Sequence[str],
    report: ImportReport,
    rules: MaskRules | None,
) -> np.ndarray | None:
    found = []
    for path in sample.masks:
        try:
            mask, remarks = read_foreign_mask(path, size, exif_orientation(file), rules)
        except ImageReadError as error:
            report.remarks["mask cannot be used; imported without mask"].append(str(error))
            return None
        for kind, detail in remarks:
            report.remarks[kind].append(f"{path}: {detail}")
        found.append(mask)
    mask = joined_masks(found)
    value = 1
    if sample.label == UNKNOWN:
        # The mask says where, but not which defect it is, unless there is only one kind.
        value = 1 if len(mask_classes) == 1 else IGNORE_INDEX
    elif sample.label != NORMAL:
        value = mask_classes.index(sample.label) + 1
    mask[mask == 1] = value
    return mask
