"""What the tests of inspection share: the script's flags, its tables, and a folder of small images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLAGS = ("--num_workers", 0, "--device", "cpu")


def rows_of(output: Path, name: str = "predictions.csv") -> dict[str, dict[str, str]]:
    """The rows of a table by image."""
    with (output / name).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    by_image = {row["image"]: row for row in rows}
    assert len(by_image) == len(rows), "two rows for one image"
    return by_image


def records_of(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "predictions.json").read_text(encoding="utf-8"))


def write_images(folder: Path, count: int, size: int = 24) -> list[str]:
    """Random (size, size) images 0000.png, ..., no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"{number:04}.png" for number in range(count)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(folder / name, compress_level=0)
    return names
