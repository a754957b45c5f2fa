"""Image files as cameras and tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# How a camera stores an upright array under each EXIF orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def save(path: Path, array: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    if orientation:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)
    return path
