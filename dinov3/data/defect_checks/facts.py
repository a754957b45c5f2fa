"""One look at each image and mask of a dataset: the few numbers that the checks judge."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.masks import foreground
from dinov3.data.defect_images import ImageReadError, deep_values, open_image, to_rgb
from dinov3.data.defect_manifest import UNKNOWN, Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, MASK_MODES, defect_pixels, is_own_palette
from dinov3.defect_size import ImageSize, height_width

PATCH = 16  # pixels a side; what the network sees as one
SPECK = 8  # regions of up to so many pixels, less than 3 x 3, are slips of the pen or noise
THREADS = 8  # at most, so that as many images are in memory; more would wait for Python's lock anyway

Verdict = Literal["normal", "defect", "unknown"]


@dataclass(frozen=True)
class ImageFacts:
    """An image that can be read."""

    size: tuple[int, int]  # width, height, upright
    channels: str  # grey or colour
    depth: str
    brightness: float  # mean, 0 to 255
    contrast: float  # standard deviation
    highest: int | None  # value in a file of 16 bits per sample
    digest: bytes  # of the decoded pixels


@dataclass(frozen=True)
class MaskFacts:
    """A mask that can be decoded; its regions are those of :func:`foreground` where its values are no classes."""

    size: tuple[int, int]  # width, height, upright
    mode: str  # Pillow's
    reading: Literal["classes", "ignored", "other"]  # sound; without class but with 255; values of no class
    values: str  # the first values of no class
    empty: bool
    coverage: float  # share of defect pixels
    regions: int
    specks: int
    small: Counter[int]  # longest side in pixels -> how many regions are smaller than a patch after resizing
    vanishing: int  # how many of those get thinner than a pixel
    digest: bytes  # of its classes, or of the defect pixels where it has none


@dataclass(frozen=True)
class Facts:
    """A row of the manifest: what it says and what its files hold (None: no such file, or unreadable)."""

    name: str
    mask_name: str
    label: str
    split: str
    verdict: Verdict
    image: ImageFacts | None
    mask: MaskFacts | None
    image_error: str = ""
    mask_error: str = ""


def examine(manifest: Manifest, image_size: ImageSize) -> list[Facts]:
    """Read each file of a dataset once, in threads (decoding lets go of Python's lock), and keep its facts alone.

    Args:
        manifest: the dataset.
        image_size: what training will resize images to.
    """
    columns = [manifest.columns[name].tolist() for name in ("image", "mask", "label", "split")]
    rows = list(zip(*columns, strict=True))
    dataset = manifest.root, manifest.classes[0], len(manifest.mask_classes)
    look = partial(_examine_row, *dataset, height_width(image_size), manifest.white_level)
    with ThreadPool(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.imap(look, rows, chunksize=8), total=len(rows), desc="check", unit="image"))


def _examine_row(
    root: Path, normal: str, classes: int, image_size: tuple[int, int], white_level: int, row: tuple[str, str, str, str]
) -> Facts:
    name, mask_name, label, split = row
    image = mask = None
    errors = ["", ""]
    verdict: Verdict = "normal" if label == normal else "unknown" if label == UNKNOWN else "defect"
    # Beside what open_image names, an odd mode may fail to convert (ValueError) or a header ask for all the memory.
    unusable = (ImageReadError, ValueError, OSError, MemoryError)
    try:
        image = image_facts(root / name, white_level)
    except unusable as error:
        errors[0] = _reason(error, root / name)
    if mask_name:
        try:
            lossy = Path(mask_name).suffix.lower() in JPEG_SUFFIXES
            found = open_image(root / mask_name)
            # Where nobody said which of several classes a defect is, or no defect was found, 255 is all that a sound
            # mask can hold.
            sound = verdict == "unknown" and classes > 1 or verdict != "defect" and is_own_palette(found)
            mask = mask_facts(found, lossy, classes, image_size, may_ignore=sound)
        except unusable as error:
            errors[1] = _reason(error, root / mask_name)
    return Facts(name, mask_name, label, split, verdict, image, mask, *errors)


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ") or type(error).__name__


def image_facts(path: Path, white_level: int) -> ImageFacts:
    """Facts of an image file."""
    image = open_image(path)
    values = deep_values(path, image)
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    rgb = to_rgb(image, white_level)
    light = np.asarray(rgb.convert("L"))
    pixels = np.asarray(rgb)
    grey = len(image.getbands()) == 1 and image.mode != "P" or all((pixels[..., i] == light).all() for i in range(3))
    transparent = "A" in image.getbands() or "transparency" in image.info
    return ImageFacts(
        size=image.size,
        channels=("grey" if grey else "colour") + (" with transparency" if transparent else ""),
        depth="1 bit" if image.mode == "1" else "float" if image.mode == "F" else "16 bit or more" if deep else "8 bit",
        brightness=float(light.mean()),
        contrast=float(light.std()),
        highest=None if values is None else int(values.max()),
        digest=_digest(np.asarray(image) if deep else light if grey else pixels),
    )


def mask_facts(
    image: Image.Image, lossy: bool, classes: int, image_size: tuple[int, int], may_ignore: bool = False
) -> MaskFacts:
    """Facts of a decoded mask, in a dataset of so many mask classes, that is to be resized to ``image_size`` (height,
    width)."""
    reading: Literal["classes", "ignored", "other"] = "other"
    strange = np.empty(0)
    if image.mode in MASK_MODES:
        indices = np.asarray(image, dtype=np.uint8)
        present = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
        strange = present[defect_pixels(present) & (present > classes)]
        if not len(strange):
            no_class = present[-1] == IGNORE_INDEX and not (present[:-1] > 0).any()
            reading = "ignored" if no_class and not may_ignore else "classes"
    if reading == "classes":
        defect = defect_pixels(indices).astype(np.uint8)
    elif reading == "ignored":
        defect = (indices == IGNORE_INDEX).astype(np.uint8)
    else:
        defect = (foreground(image, lossy, []) == 1).astype(np.uint8)
    height, width = defect.shape
    boxes = cv2.connectedComponentsWithStats(defect, connectivity=8)[2][1:]
    wide, high, area = boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT], boxes[:, cv2.CC_STAT_AREA]
    specks = area <= SPECK
    counted = area >= 4 if specks.all() else ~specks  # where nothing larger is marked, 2 x 2 may be a tiny defect
    resized = np.stack([wide * (image_size[1] / width), high * (image_size[0] / height)])
    small = counted & (resized.max(axis=0) < PATCH)
    return MaskFacts(
        size=image.size,
        mode=image.mode,
        reading=reading,
        values=", ".join(map(str, strange[:4])) + (", ..." if len(strange) > 4 else ""),
        empty=not defect.any(),
        coverage=float(defect.mean()),
        regions=len(boxes),
        specks=int(specks.sum()),
        small=Counter(np.maximum(wide, high)[small].tolist()),
        vanishing=int((small & (resized.min(axis=0) < 1)).sum()),
        digest=_digest(indices if reading == "classes" else defect),
    )


def _digest(pixels: np.ndarray) -> bytes:
    found = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(pixels))
    return found.digest()
