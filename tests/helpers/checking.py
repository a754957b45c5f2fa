"""What the tests of the checks share: a sound dataset folder, and ways to spoil it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import square_image

from dinov3.data.defect_masks import IGNORE_INDEX, write_mask
from dinov3.data.defect_prepare.writer import DatasetWriter


def write_dozen(folder: Path) -> Path:
    """Twelve images, half defective, two classes in each of train and val; nothing wrong."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        for i in range(12):
            image, mask = square_image(rng, defect=i % 2 == 1, size=48)
            mask[0, 0] = IGNORE_INDEX if i % 2 else 0
            label, split = ("normal", "defect")[i % 2], ("train", "val")[i // 8]
            target = mask if i % 2 else None
            writer.add(image, f"{i:02}.png", target, label=label, split=split, group=str(i), source="made")
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
    return folder


def edit_rows(dataset: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    path = dataset / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0])
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


def write(dataset: Path, name: str, mask: np.ndarray) -> None:
    write_mask(dataset / "masks" / name, mask.astype(np.uint8))
