"""What the tests of tiles share: a small dataset of images larger than the tiles used on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_prepare.writer import DatasetWriter

SHAPE = (150, 230)  # of the images here: no multiple of any tile
TILE = 64  # the longer side
FLAT = (48, 64)  # height and width of a tile that is no square


def write_large(folder: Path, count: int = 8) -> Manifest:
    """Noise of 150 x 230 pixels; every second image has a dark square of 8 pixels and, in a corner, one of 5."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        for split in ("train", "val", "test"):
            for i in range(count if split == "train" else 4):
                image = rng.normal(140, 12, (*SHAPE, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
                mask = np.zeros(SHAPE, np.uint8)
                if i % 2:
                    y, x = rng.integers(70, SHAPE[0] - 8), rng.integers(70, SHAPE[1] - 8)
                    mask[y : y + 8, x : x + 8] = mask[2:7, 3:8] = 1
                image[mask > 0] //= 4
                label = "defect" if i % 2 else "normal"
                name = f"{split}/{i:03d}.png"
                masked = mask if i % 2 else None
                writer.add(image, name, masked, label=label, split=split, group=name, source="made")
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
