"""Decoding image files of every common kind into RGB arrays."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dinov3.defect_errors import DefectError

# From here on, resizing a JPEG image decoded at a fraction of its size differs from resizing all of it by less than the
# JPEG compression itself did; below, fine lines lose contrast (benchmarks/RESULTS.md).
OVERSAMPLING = 1.75


class ImageReadError(DefectError):
    """An image or mask file that cannot be used; the text names the file and the reason."""


def open_image(path: Path) -> Image.Image:
    """The first frame of an image file, decoded and turned upright by its EXIF tag.

    Raises:
        ImageReadError: missing, unreadable, truncated, too large, or not an image.
    """
    return _decode(path, None)[0]


def _decode(path: Path, smallest: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The upright image, and its full size (width, height); a JPEG file is decoded at 1/2, 1/4 or 1/8 of that if its
    sides stay at least ``smallest``."""
    try:
        with Image.open(path) as image:
            size = image.size
            if smallest is not None:
                image.draft(None, (smallest, smallest))
            image.load()
            stored = image.size
            ImageOps.exif_transpose(image, in_place=True)  # else it copies the pixels, turned or not
            return image, size if image.size == stored else size[::-1]
    except FileNotFoundError:
        reason = "no such file" + (", it is a link to nowhere" if path.is_symlink() else "")
    except PermissionError:
        reason = "no permission to read it"
    except IsADirectoryError:
        reason = "a folder, not an image"
    except Image.UnidentifiedImageError:
        empty = path.exists() and path.stat().st_size == 0
        reason = "empty file" if empty else "not an image, or of a format that Pillow cannot read"
    except Image.DecompressionBombError as error:
        reason = f"too large to decode safely ({error})"
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        circular = isinstance(error, OSError) and error.errno == errno.ELOOP
        reason = "a link that leads in a circle" if circular else f"broken or truncated ({error})"
    raise ImageReadError(f"{path}: {reason}")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit and 32-bit integers by their full 16-bit range, floats by 0 to 1 (or their own range when
    they leave it), transparent pixels over white as image viewers show them."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        if image.mode == "F":
            low, high = float(values.min()), float(values.max())
            low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        else:
            low, high = 0.0, 65535.0
        values = (values - low) / max(high - low, 1e-12) * 255
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_image(path: Path | str) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright.

    Raises:
        ImageReadError: missing, unreadable, truncated, too large, or not an image.
    """
    return np.asarray(to_rgb(open_image(Path(path))))


def read_for_size(path: Path | str, side: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """As :func:`read_image`, for resizing to ``side`` squared (None: not at all); and the full (height, width).

    A large JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, in less time, as long as either side stays at least
    ``OVERSAMPLING * side``. Training, validation and inference all read so.
    """
    image, (width, height) = _decode(Path(path), None if side is None else math.ceil(OVERSAMPLING * side))
    return np.asarray(to_rgb(image)), (height, width)


def exif_orientation(path: Path | str) -> int:
    """How a readable image file is stored: 1 upright (or unknown), 2 to 8 as in its EXIF tag; from 5 on on its side."""
    with Image.open(path) as image:
        value = image.getexif().get(ExifTags.Base.Orientation)
    return value if value in range(1, 9) else 1
