"""What the results database gets of an image beside its record: its hash, and where copies of it and its mask lie."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3.data.defect_drawing import IGNORE_COLOR, class_color
from dinov3.data.defect_images import ImageBytes, ImageReadError, open_file
from dinov3.defect_station.store.kept_files import KeptFiles
from dinov3.inference.pipeline import Source
from dinov3.inference.prediction import Prediction
from dinov3.models.defect_facts import fingerprint

SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}  # others: as the format is called


@dataclass(frozen=True)
class Evidence:
    """As :func:`take_evidence` finds it.

    Attributes:
        content_hash: SHA-256 of the image's file, in hexadecimal; empty if it is gone.
        image_path, mask_path: absolute; empty if nowhere.
        files: that are to be written, by their place.
        embedding: (D,) float32, the network's own description of the image, if there is one.
    """

    content_hash: str
    image_path: str = ""
    mask_path: str = ""
    files: dict[Path, bytes] = field(default_factory=dict)
    embedding: np.ndarray | None = None


def take_evidence(source: Source, prediction: Prediction | None, kept: KeptFiles | None) -> Evidence:
    """The evidence of an upload, or of a file, which stays where it is.

    Args:
        prediction: if there is one.
        kept: where copies are to lie; None: there are to be none.
    """
    image_path = mask_path = content_hash = ""
    files: dict[Path, bytes] = {}
    if isinstance(source, ImageBytes):
        content_hash = hashlib.sha256(source.content).hexdigest()
        if kept is not None:
            place = kept.place(content_hash, _suffix(source))
            files[place], image_path = source.content, str(place)
    else:
        image_path = os.path.abspath(source)
        with suppress(OSError):
            content_hash = fingerprint(source)
    if kept is not None and prediction is not None and content_hash:
        content = mask_png(prediction.mask)
        place = kept.place(content_hash, f"-{hashlib.sha256(content).hexdigest()[:16]}.png")
        files[place], mask_path = content, str(place)
    return Evidence(content_hash, image_path, mask_path, files, prediction and prediction.embedding)


def _suffix(source: ImageBytes) -> str:
    with suppress(ImageReadError), open_file(source) as image:
        return SUFFIXES.get(image.format or "", f".{image.format}".lower())
    return ""


def mask_png(mask: np.ndarray) -> bytes:
    """(H, W) uint8 class indices as the content of a file of :func:`~dinov3.data.defect_masks.write_mask`."""
    colors = [*map(class_color, range(255)), IGNORE_COLOR]
    image, file = Image.fromarray(mask), io.BytesIO()
    image.putpalette([channel for color in colors for channel in color])
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()
