"""Defects of one image pasted onto another: the same defect on many surfaces, so that the surface can't give it away.

After the copy-paste augmentation of Ghiasi et al. 2021 (arXiv 2012.07177), with soft edges and matched brightness.
"""

from __future__ import annotations

import cv2
import numpy as np

from dinov3.data.defect_masks import defect_pixels

LARGEST = 0.25  # share of the image; larger regions are part of their surface and look cut out on another


def paste_defect(
    image: np.ndarray, mask: np.ndarray, donor: np.ndarray, donor_mask: np.ndarray, rng: np.random.Generator
) -> int:
    """Paste one connected defect of ``donor`` into ``image``, in place.

    It is flipped at random and lands where it was or, as often, anywhere it fits. Its brightness is scaled by that of
    the surroundings here and there.

    Args:
        image: (H, W, 3) uint8, changed.
        mask: (H, W) uint8 class indices, changed.
        donor: (H, W, 3) uint8, of the same size.
        donor_mask: (H, W) uint8 class indices.
        rng: decides region, flips and place.

    Returns:
        The class index that most of the pasted region has in the mask; 0 if nothing was pasted, as the donor's region
        is too large or not there.
    """
    for axis in (0, 1):
        if rng.random() < 0.5:
            donor, donor_mask = np.flip(donor, axis), np.flip(donor_mask, axis)
    defect = np.ascontiguousarray(defect_pixels(donor_mask)).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(defect)
    if count == 1:
        return 0
    number = int(rng.integers(1, count))
    x, y, w, h, area = stats[number].tolist()
    height, width = mask.shape
    if area > LARGEST * height * width:
        return 0
    moves = rng.random() < 0.5
    dy, dx = (int(rng.integers(-y, height - h - y + 1)), int(rng.integers(-x, width - w - x + 1))) if moves else (0, 0)
    rim = max(3, max(w, h) // 10)
    # A window around the defect, less what lies outside of either image.
    top, left = (max(start - 3 * rim, 0, -d) for start, d in ((y, dy), (x, dx)))
    bottom = min(y + h + 3 * rim, height, height - dy)
    right = min(x + w + 3 * rim, width, width - dx)
    here = (slice(top + dy, bottom + dy), slice(left + dx, right + dx))
    there = (slice(top, bottom), slice(left, right))
    region = (regions[there] == number).astype(np.uint8)
    wide = cv2.dilate(region, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    blend = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), rim / 2, borderType=cv2.BORDER_REPLICATE)
    rest = (region == 0) & (wide > 0)
    if not rest.any():
        return 0
    old, new = image[here].astype(np.float32), donor[there].astype(np.float32)
    gain = np.clip((old[rest].mean() + 8) / (new[rest].mean() + 8), 0.3, 3.0)
    mixed = old + (np.minimum(new * gain, 255) - old) * blend[..., None]
    image[here] = mixed.round().astype(np.uint8)
    pasted = donor_mask[there][region > 0]
    mask[here][region > 0] = pasted
    return int(np.bincount(pasted).argmax())
