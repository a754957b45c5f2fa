"""Decoding image files of every common kind into RGB arrays."""

from __future__ import annotations

import errno
import io
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from dinov3.defect_errors import DefectError
from dinov3.defect_size import ImageSize, height_width

# From here on, resizing a JPEG image decoded at a fraction of its size differs from resizing all of it by less than the
# JPEG compression itself did; below, fine lines lose contrast (benchmarks/RESULTS.md).
OVERSAMPLING = 1.75

Image.init()
# Pictures alone: no documents, films or data. PostScript would be handed to Ghostscript, whatever its suffix.
FORMATS = tuple(
    name
    for name in "AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI TGA TIFF WEBP".split()
    if name in Image.OPEN
)
FULL_RANGE = 65535  # white of 16-bit pictures, unless the dataset says that its camera uses less
WHITE_LEVELS = (1023, 4095, 16383, FULL_RANGE)  # of cameras with 10, 12, 14 and 16 bits
DEEP_COLOUR = "16 bits per channel"  # in Pillow's info of a picture
TURNED = "0 was white"  # the same; of 16-bit pictures that were turned within the full range
MOST_SCANS = 100  # of a progressive JPEG file; encoders write about ten, and each costs a pass over all pixels

PIXELS_VARIABLE = "DEFECT_MAX_PIXELS"


def _pixel_limit() -> int:
    """Pixels of the largest picture to decode; Pillow's own limit follows."""
    text = os.environ.get(PIXELS_VARIABLE, "178956970")
    if not text.isdecimal() or int(text) < 1:
        raise DefectError(f"{PIXELS_VARIABLE}={text}: expected a number of pixels, such as 400000000")
    Image.MAX_IMAGE_PIXELS = int(text)
    return int(text)


MAX_PIXELS = _pixel_limit()


class ImageReadError(DefectError):
    """An image or mask file that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True)
class ImageBytes:
    """An image file in memory, such as an upload: read, and named in messages, as a file is."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def _content(source: Path | ImageBytes) -> bytes:
    return source.content if isinstance(source, ImageBytes) else source.read_bytes()


def open_file(path: Path | ImageBytes) -> ImageFile.ImageFile:
    """An image file, not decoded yet: a regular file, or one in memory, in one of ``FORMATS``. To be closed.

    Raises:
        ImageReadError: it is none; the text names the file and the reason.
    """
    try:
        if isinstance(path, ImageBytes):
            return Image.open(io.BytesIO(path.content), formats=FORMATS)
        kind = os.stat(path).st_mode  # a pipe would wait for whoever writes into it
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            return Image.open(path, formats=FORMATS)
        reason = "a pipe, socket or device, not an image file"
    except IsADirectoryError:
        reason = "a folder, not an image"
    except FileNotFoundError:
        reason = "no such file" + (", it is a link to nowhere" if path.is_symlink() else "")
    except PermissionError:
        reason = "no permission to read it"
    except Image.UnidentifiedImageError:
        in_memory = isinstance(path, ImageBytes)
        empty = not path.content if in_memory else path.exists() and path.stat().st_size == 0
        reason = "empty file" if empty else f"not an image, or not of a format that is read here ({', '.join(FORMATS)})"
    except Image.DecompressionBombError:
        reason = too_large("")
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        circular = isinstance(error, OSError) and error.errno == errno.ELOOP
        reason = "a link that leads in a circle" if circular else f"broken or truncated ({error})"
    raise ImageReadError(f"{path}: {reason}")


def too_large(size: str) -> str:
    """Why a picture of ``size`` is not decoded, and the ways out."""
    return (
        f"too large to decode safely: {size}more than {MAX_PIXELS:,} pixels, the limit; set {PIXELS_VARIABLE} to "
        "more (100 megapixels take about 1 GB of memory while they are read), save it as an uncompressed TIFF and "
        "use tiles (--tile_size), which read parts of it, or cut it into several images"
    )


def open_image(path: Path) -> Image.Image:
    """The first frame of an image file, decoded and turned upright by its EXIF tag. Grey pictures with more than 8 bits
    have 0 for black, also where the file says that 0 is white.

    Raises:
        ImageReadError: missing, unreadable, truncated, too large, no image, or of a kind whose values have no agreed
            meaning as a picture (signed integers, 32-bit integers beyond 16 bits).
    """
    return _decode(path, None)[0]


def _decode(path: Path | ImageBytes, smallest: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """The upright image, and its full size (width, height); a JPEG file is decoded at 1/2, 1/4 or 1/8 of that if its
    sides stay at least ``smallest`` (height, width)."""
    with open_file(path) as image:
        size = image.size
        reason = _why_not(image, path, smallest)
        if reason:
            raise ImageReadError(f"{path}: {reason}")
        try:
            if smallest is not None:
                image.draft(None, smallest if _lies_on_its_side(image, smallest) else smallest[::-1])
            deep_colour = image.mode.startswith("RGB") and any(";16" in str(tile[3]) for tile in image.tile)
            image.load()
            stored = image.size
            low, high = image.getextrema() if image.mode == "I" else (0, 0)
            upright = _black_is_zero(image)
            upright.info[DEEP_COLOUR] = deep_colour
            ImageOps.exif_transpose(upright, in_place=True)  # else it copies the pixels, turned or not
        except Exception as error:  # Pillow's plugins raise many types on damaged files
            raise ImageReadError(f"{path}: broken or truncated ({error})") from None
    if low < 0 or high > FULL_RANGE:
        raise ImageReadError(f"{path}: 32-bit values from {low} to {high}; expected 0 to {FULL_RANGE}; save as 16 bit")
    return upright, size if upright.size == stored else size[::-1]


def _lies_on_its_side(image: ImageFile.ImageFile, smallest: tuple[int, int]) -> bool:
    """Whether an opened file is stored so and that makes a difference to ``smallest``: of JPEG files, which alone are
    decoded at a fraction of their size; of others, asking may decode them."""
    if smallest[0] == smallest[1] or image.format not in ("JPEG", "MPO"):
        return False
    try:
        return _orientation(image) >= 5
    except Exception:  # Pillow's readers of tags raise many types; decoding it tells the reason
        return False


def _why_not(image: ImageFile.ImageFile, path: Path | ImageBytes, smallest: tuple[int, int] | None) -> str:
    """Why an opened file is not to be decoded; empty if it may be."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return too_large(f"{width} x {height}, ")
    upright = width if smallest is not None and _lies_on_its_side(image, smallest) else height
    if smallest is not None and upright * smallest[1] > max(MAX_PIXELS, 2 * width * height):
        shape = "a square" if smallest[0] == smallest[1] else "this shape"
        return f"{width} x {height} pixels: too narrow to be resized to {shape}; cut it into pieces or use tiles"
    if image.info.get("progressive") and _content(path).count(b"\xff\xda") > MOST_SCANS:
        return f"a JPEG file of more than {MOST_SCANS} scans, which takes minutes to decode; save it anew"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        if 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)):
            return "a TIFF of signed integers, whose black and white are not known; save it as unsigned 16 bit"
        planes = (
            tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1
        )
        if bits > 8 and planes:
            return f"a TIFF with {bits}-bit channels in separate planes; save it with interleaved channels"
        if bits > 16 and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            return f"a {bits}-bit TIFF in which 0 is white, whose black is not known; save it as unsigned 16 bit"
    return ""


def _black_is_zero(image: Image.Image) -> Image.Image:
    """A decoded picture with 0 for black: Pillow turns those in which 0 is white up to 8 bits alone."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith("I"):
        return image
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) != 0:
        return image
    white = 2 ** max(image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]) - 1
    turned = Image.fromarray((white - np.asarray(image).astype(np.int32)).astype(np.uint16))
    turned.info = image.info | {TURNED: white == FULL_RANGE}
    if orientation := image.getexif().get(ExifTags.Base.Orientation):
        turned.getexif()[ExifTags.Base.Orientation] = orientation
    return turned


def to_rgb(image: Image.Image, white_level: int = FULL_RANGE) -> Image.Image:
    """8-bit RGB: integers of 16 and 32 bits from 0 to ``white_level``, floats by 0 to 1 (or their own range when they
    leave it), transparent pixels over white as image viewers show them."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        if image.mode == "F":
            low, high = float(values.min()), float(values.max())
            low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        else:
            # In a file in which 0 is white, what a camera uses of the range lies at its other end.
            low = float(FULL_RANGE - white_level) if image.info.get(TURNED) else 0.0
            high = low + white_level
        values = (values - low) / max(high - low, 1e-12) * 255
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_image(path: Path | str, white_level: int = FULL_RANGE) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright.

    Args:
        white_level: value of white in 16-bit files, one of ``WHITE_LEVELS``; a dataset knows it of its camera.

    Raises:
        ImageReadError: as :func:`open_image`; or a 16-bit file has values above ``white_level``.
    """
    return read_for_size(path, None, white_level)[0]


def read_for_size(
    path: Path | ImageBytes | str, size: ImageSize | None, white_level: int = FULL_RANGE
) -> tuple[np.ndarray, tuple[int, int]]:
    """As :func:`read_image`, for resizing to ``size`` (None: not at all); and the full (height, width).

    A large JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, in less time, as long as either side stays at least
    ``OVERSAMPLING`` times that of ``size``. Training, validation and inference all read so.
    """
    path = Path(path) if isinstance(path, str) else path
    smallest = None
    if size is not None:
        height, width = height_width(size)
        smallest = math.ceil(OVERSAMPLING * height), math.ceil(OVERSAMPLING * width)
    image, (width, height) = _decode(path, smallest)
    if white_level == FULL_RANGE:
        return np.asarray(to_rgb(image)), (height, width)
    values = deep_values(path, image)
    if values is None:
        return np.asarray(to_rgb(image)), (height, width)
    expect_within(path, int(values.max()), white_level)
    if values.ndim == 2:
        return np.asarray(to_rgb(image, white_level)), (height, width)
    return (values * (255 / white_level)).round().astype(np.uint8), (height, width)


def expect_within(path: Path | ImageBytes, highest: int, white_level: int) -> None:
    """Raise ImageReadError for a 16-bit file whose values leave the range that its dataset uses."""
    if highest > white_level:
        raise ImageReadError(
            f"{path}: 16-bit values up to {highest}; expected at most {white_level}, the white_level of the dataset's "
            "camera: set the camera as it was, or organise and train anew with images of both kinds"
        )


def deep_values(path: Path | ImageBytes, image: Image.Image) -> np.ndarray | None:
    """The samples of a decoded file that stores 16 bits for each: (H, W), or (H, W, 3) RGB, upright; None of others.
    They are as stored, also where 0 is white: that tells the range in use."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        return FULL_RANGE - values if image.info.get(TURNED) else values
    if not image.info.get(DEEP_COLOUR):
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH  # Pillow keeps 8 bits of each; OpenCV turns it upright
    values = cv2.imdecode(np.frombuffer(_content(path), np.uint8), flags)
    if values is None or values.dtype != np.uint16:
        raise ImageReadError(f"{path}: 16-bit colour that cannot be read; save it as PNG with 16 bits, or as 8 bit")
    return cv2.cvtColor(values, cv2.COLOR_BGR2RGB)


def smallest_white_level(highest: int) -> int:
    """The range of the camera whose brightest value is ``highest``."""
    return next(level for level in WHITE_LEVELS if level >= highest)


def exif_orientation(path: Path | str) -> int:
    """How a readable image file is stored: 1 upright (or unknown), 2 to 8 as in its EXIF tag; from 5 on on its side."""
    with open_file(Path(path)) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation)
    return value if value in range(1, 9) else 1
