"""The demo dataset: made-up parts, half of them defective, in a dataset folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_prepare.splits import grouped_split
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.data.defect_synthesis.render import DEFECTS, SURFACES, synthesize
from dinov3.defect_errors import DefectError

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def write_demo(output_dir: Path, num_images: int, seed: int, overwrite: bool = False, command: str = "") -> Manifest:
    """Write ``num_images`` pictures of 320 x 320 pixels: every surface in turn, every second one with a defect.

    The same seed gives the same dataset. Raises DefectError below 30 images, which would leave splits empty.
    """
    if num_images < 30:
        raise DefectError(f"--num_images {num_images}: expected at least 30, so that every split gets both classes")
    # Surface changes from pair to pair and defect from round to round, so that all combinations come up.
    surfaces = [SURFACES[i // 2 % len(SURFACES)] for i in range(num_images)]
    defects = [
        None if i % 2 == 0 else DEFECTS[(i // 2 + i // 2 // len(SURFACES)) % len(DEFECTS)] for i in range(num_images)
    ]
    names = [f"{surface}/{i:05d}.png" for i, surface in enumerate(surfaces)]
    splits = grouped_split([d or "normal" for d in defects], names, FRACTIONS, seed)
    with DatasetWriter(output_dir, overwrite) as writer:
        for i in tqdm(range(num_images), desc="demo", unit="image"):
            sample = synthesize(np.random.default_rng((seed, i)), surface=surfaces[i], defect=defects[i])
            writer.add(
                sample.image,
                names[i],
                sample.mask if defects[i] else None,
                label="defect" if defects[i] else "normal",
                split=splits[i],
                group=names[i],
                source=defects[i] or "normal",
            )
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=seed, command=command)
