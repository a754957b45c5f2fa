"""Reading image and mask files of every common kind into arrays, and writing palette masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dinov3.defect_errors import DefectError

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
    """
    if not folder.is_dir():
        raise DefectError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a folder of images"
        )
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and (p.is_file() or p.is_symlink()))
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _open(path: Path) -> Image.Image:
    """The first frame of an image file, decoded and turned upright by its EXIF tag."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        reason = "no such file"
    except PermissionError:
        reason = "no permission to read it"
    except IsADirectoryError:
        reason = "a folder, not an image"
    except Image.UnidentifiedImageError:
        reason = "empty file" if path.stat().st_size == 0 else "not an image, or of a format that Pillow cannot read"
    except Image.DecompressionBombError as error:
        reason = f"too large to decode safely ({error})"
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        reason = f"broken or truncated ({error})"
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
    return image.convert("RGB")


def read_image(path: Path | str) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright.

    Raises:
        ImageReadError: missing, unreadable, truncated, too large, or not an image.
    """
    return np.asarray(to_rgb(_open(Path(path))))


def read_mask(path: Path | str) -> np.ndarray:
    """A palette mask written by :func:`write_mask`, as (H, W) uint8 class indices (255 = ignored)."""
    image = _open(Path(path))
    if image.mode not in ("P", "L", "1"):
        raise ImageReadError(f"{path}: a mask of mode {image.mode}; expected a palette or grey PNG of class indices")
    return np.asarray(image, dtype=np.uint8)


def read_foreign_mask(path: Path | str, size: tuple[int, int]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """A mask of unknown origin as (H, W) uint8, 1 where defective, and what had to be repaired (kind, details).

    Takes 0/1, 0/255, any other two values, class indices, RGB, palette, an alpha channel, 16 bit, and masks saved as
    JPEG or with soft edges (cut at half of the full value). A mask of another size but the same shape is
    resized with nearest neighbour.

    Args:
        path: the mask file.
        size: (height, width) of its image.

    Raises:
        ImageReadError: unreadable, or of another aspect ratio than the image.
    """
    remarks: list[tuple[str, str]] = []
    mask = _binary(_open(Path(path)), Path(path).suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif"), remarks)
    height, width = size
    if mask.shape != size:
        found = f"{mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}"
        if abs(mask.shape[1] / mask.shape[0] / (width / height) - 1) > 0.02:
            raise ImageReadError(f"{path}: the mask is {found}; expected the same shape")
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        remarks.append(("mask of another size; resized", found))
    return mask, remarks


def _binary(image: Image.Image, lossy: bool, remarks: list[tuple[str, str]]) -> np.ndarray:
    bands = image.getbands()
    if "A" in bands:
        alpha = np.asarray(image.getchannel("A"))
        values = np.asarray(image.convert("RGB")).max(axis=2)
        if values.min() == values.max() and alpha.min() < alpha.max():
            values = alpha  # drawn in the alpha channel alone
            remarks.append(("mask drawn in the alpha channel", image.mode))
    elif len(bands) > 1:
        values = np.asarray(image.convert("RGB")).max(axis=2)
    else:
        values = np.asarray(image)  # palette masks by their index
    levels = np.unique(values)
    if len(levels) == 2 and not lossy:
        return (values > levels[0]).astype(np.uint8)
    if len(levels) == 1 or (0 <= levels[0] and levels[-1] <= 32 and not lossy):
        return (values > 0).astype(np.uint8)  # all clean, all defective, or class indices
    full = 65535 if levels.max() > 255 else 255 if levels.max() > 1 else 1
    soft = float(((values > full * 0.1) & (values < full * 0.9)).mean())
    remarks.append(("mask with soft edges or noise; cut at half", f"{len(levels)} grey values, {soft:.2%} in between"))
    return (values > full / 2).astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Save (H, W) uint8 class indices as a palette PNG, which is both exact and visible."""
    image = Image.fromarray(mask)
    colors = [class_color(i) for i in range(255)] + [IGNORE_COLOR]
    image.putpalette([channel for color in colors for channel in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")
