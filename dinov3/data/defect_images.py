"""Reading image and mask files of every common kind into arrays, and writing palette masks."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dinov3.defect_errors import DefectError

MASK_MODES = ("P", "L", "1")  # of Pillow; what training reads as class indices
IGNORE_INDEX = 255  # mask pixels of this value count for nothing, in losses and in metrics

# Okabe and Ito's colour-blind-safe palette (2008, jfly.uni-koeln.de/color), vermillion first; index 0 is background.
CLASS_COLORS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
)
IGNORE_COLOR = (128, 128, 128)

# From here on, resizing a JPEG image decoded at a part of its size differs from resizing all of it by less than the
# JPEG compression itself did; below, fine lines lose contrast (benchmarks/RESULTS.md).
OVERSAMPLING = 1.75

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_NOT_PHOTOGRAPHS = set(".eps .ps .pdf .mpg .mpeg .h5 .hdf .grib .bufr .emf .wmf .fit .fits".split())
Image.init()
# Everything that Pillow reads, but for documents, films and data containers.
IMAGE_SUFFIXES = frozenset(s for s, kind in Image.EXTENSION.items() if kind in Image.OPEN) - _NOT_PHOTOGRAPHS


class ImageReadError(DefectError):
    """An image or mask file that cannot be used; the text names the file and the reason."""


def class_color(index: int) -> tuple[int, int, int]:
    """RGB colour (0 to 255) of a class index; the seven defect colours repeat from index 8 on."""
    return CLASS_COLORS[0] if index == 0 else CLASS_COLORS[1 + (index - 1) % (len(CLASS_COLORS) - 1)]


def list_images(folder: Path) -> list[Path]:
    """Every image file below ``folder``, by suffix, sorted by path; hidden files and folders are left out.

    Links to folders are not followed, so a link loop ends.

    Raises:
        DefectError: no such folder, or a file name that no CSV or JSON file could hold.
    """
    if not folder.is_dir():
        raise DefectError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a folder of images"
        )
    return list_files(folder, IMAGE_SUFFIXES)


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """As :func:`list_images`, of the files with one of these lower-case suffixes."""
    names: list[str] = []  # plain text while there may be hundreds of thousands
    waiting = [""]
    while waiting:
        within = waiting.pop()
        try:
            with os.scandir(folder / within) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{within}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in suffixes and _may_be_read(entry):
                        names.append(within + entry.name)
        except PermissionError:
            names.append(within)  # reading it says why, as with a file
        except FileNotFoundError:
            continue  # gone since its parent was listed
    names.sort(key=lambda name: name.split("/"))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DefectError(
                f"{ascii(str(folder / name))}: a file name that is not valid UTF-8; rename the file"
            ) from None
    return [folder / name for name in names]


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to one or to nothing (reading says so), but no pipe or device, which may never end."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or os.path.isdir(entry.path) or not os.path.exists(entry.path)


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


def read_mask(path: Path | str) -> np.ndarray:
    """A palette mask written by :func:`write_mask`, as (H, W) uint8 class indices (255 = ignored)."""
    image = open_image(Path(path))
    if image.mode not in MASK_MODES:
        raise ImageReadError(f"{path}: a mask of mode {image.mode}; expected a palette or grey PNG of class indices")
    return np.asarray(image, dtype=np.uint8)


def exif_orientation(path: Path | str) -> int:
    """How a readable image file is stored: 1 upright (or unknown), 2 to 8 as in its EXIF tag; from 5 on on its side."""
    with Image.open(path) as image:
        value = image.getexif().get(ExifTags.Base.Orientation)
    return value if value in range(1, 9) else 1


def read_foreign_mask(
    path: Path | str, size: tuple[int, int], orientation: int = 1
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """A mask of unknown origin as (H, W) uint8, 1 where defective, and what had to be repaired (kind, details).

    Takes 0/1, 0/255, any other two values, class indices, RGB, palette, an alpha channel, 16 bit, and masks saved as
    JPEG or with soft edges (cut at half of the full value, which for a dark mask is its largest). A mask of another
    size but the same shape is resized with nearest neighbour. A mask drawn on the image as stored, on its side, is
    turned upright with it.

    Args:
        path: the mask file.
        size: (height, width) of its image, upright.
        orientation: :func:`exif_orientation` of its image.

    Raises:
        ImageReadError: unreadable, or of another aspect ratio than the image.
    """
    remarks: list[tuple[str, str]] = []
    image = open_image(Path(path))
    height, width = size
    found = f"{image.width}x{image.height}, its image {width}x{height}"
    if not same_shape(image.size, (width, height)):
        if orientation < 5 or not same_shape(image.size, (height, width)):
            raise ImageReadError(f"{path}: the mask is {found}; expected the same shape")
        image = _turn(image, orientation)
        remarks.append(("mask drawn on the image as stored; turned upright with it", f"{orientation=}"))
    elif orientation > 1 and (orientation < 5 or same_shape(image.size, (height, width))):
        remarks.append(("mask of an image that EXIF turns, taken as drawn on the upright one", f"{orientation=}"))
    mask = foreground(image, Path(path).suffix.lower() in JPEG_SUFFIXES, remarks)
    if mask.shape != size:
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        remarks.append(("mask of another size; resized", found))
    return mask, remarks


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two (width, height) have the same aspect ratio, but for rounding."""
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= 0.02


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def foreground(image: Image.Image, lossy: bool, remarks: list[tuple[str, str]]) -> np.ndarray:
    """(H, W) uint8, 1 where defective, of a mask image of any mode and origin; ``lossy`` if it was a JPEG file."""
    if image.mode == "P":
        return _foreground_of_palette(image)
    if len(image.getbands()) == 1:
        values = np.asarray(image)
    else:
        rgb = _over_black(image, remarks)
        values = rgb.max(axis=2)
        if not lossy and values.min() > 0 and (rgb.min(axis=2) < values).any():
            return _foreground_of_colors(rgb, remarks)
    levels = np.unique(values)
    if len(levels) == 2 and not lossy:
        return (values > levels[0]).astype(np.uint8)
    if len(levels) == 1 or (0 <= levels[0] and levels[-1] <= 32 and not lossy):
        return (values > 0).astype(np.uint8)  # all clean, all defective, or class indices
    dark = 32 < levels[-1] < 128  # white is not white in it, so that half of 255 would cut all of it away
    full = levels[-1] if levels[-1] > 255 or dark else 255 if levels[-1] > 1 else 1
    soft = float(((values > full * 0.1) & (values < full * 0.9)).mean())
    remarks.append(("mask with soft edges or noise; cut at half", f"{len(levels)} grey values, {soft:.2%} in between"))
    return (values > full / 2).astype(np.uint8)


def _foreground_of_palette(image: Image.Image) -> np.ndarray:
    """All but the black index; all but index 0 if no index in use is black, or several are."""
    indices = np.asarray(image)
    colors = np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    black = [i for i in np.unique(indices) if i < len(colors) and not colors[i].any()]
    return (indices != (black[0] if len(black) == 1 else 0)).astype(np.uint8)


def _over_black(image: Image.Image, remarks: list[tuple[str, str]]) -> np.ndarray:
    """(H, W, 3) uint8: what is visible over black; where that is all black or all alike, the alpha channel itself."""
    if "A" not in image.getbands():
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA"))
    alpha = rgba[..., 3:]
    rgb = (rgba[..., :3].astype(np.uint16) * alpha // 255).astype(np.uint8)
    if rgb.min() == rgb.max() and alpha.min() < alpha.max():
        remarks.append(("mask drawn in the alpha channel", image.mode))
        rgb = alpha.repeat(3, axis=2)
    return rgb


def _foreground_of_colors(rgb: np.ndarray, remarks: list[tuple[str, str]]) -> np.ndarray:
    """All but the commonest color, for colors on a background that is not black."""
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colors, counts = np.unique(packed, return_counts=True)
    background = colors[counts.argmax()]
    remarks.append(("mask without black; its commonest color taken as background", f"#{background:06x}"))
    return (packed != background).astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Save (H, W) uint8 class indices as a palette PNG, which is both exact and visible."""
    image = Image.fromarray(mask)
    colors = [class_color(i) for i in range(255)] + [IGNORE_COLOR]
    image.putpalette([channel for color in colors for channel in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", compress_level=1)  # flat areas get small anyway, and are read much faster
