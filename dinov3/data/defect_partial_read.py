"""Reading a window of an image file without decoding the rest, where the format allows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from dinov3.data.defect_images import FULL_RANGE, exif_orientation, expect_within, open_file, read_image, to_rgb

# Raw layouts (Pillow's names): mode of the image, bytes per pixel.
_LAYOUTS = {"L": ("L", 1), "RGB": ("RGB", 3), "BGR": ("RGB", 3), "I;16": ("I;16", 2), "I;16B": ("I;16B", 2)}


@dataclass(frozen=True)
class _Block:
    """A rectangle of pixels stored row after row, uncompressed."""

    left: int
    top: int
    right: int
    bottom: int
    offset: int  # of its first row, bytes from the start of the file
    layout: str
    stride: int  # bytes from row to row
    upward: bool  # the last row comes first

    def read(self, path: Path, top: int, left: int, bottom: int, right: int, white_level: int) -> np.ndarray:
        """(h, w, 3) uint8 of the pixels from (left, top) to (right, bottom) of the image, all within the block."""
        mode, width = _LAYOUTS[self.layout]
        rows = np.memmap(path, np.uint8, "r", self.offset, (self.bottom - self.top, self.stride))
        rows = rows[::-1] if self.upward else rows
        columns = slice((left - self.left) * width, (right - self.left) * width)
        data = rows[top - self.top : bottom - self.top, columns].tobytes()
        part = Image.frombytes(mode, (right - left, bottom - top), data, "raw", self.layout)
        if mode.startswith("I") and white_level != FULL_RANGE:
            expect_within(path, part.getextrema()[1], white_level)
        return np.asarray(to_rgb(part, white_level))


class WindowReader:
    """An image file to read windows of, ``reader[top:bottom, left:right]``, as (h, w, 3) uint8 RGB.

    From uncompressed files (BMP, PPM, TIFF in strips or tiles; 8 or 16 bit) the pixels asked for are read alone. JPEG,
    PNG and other compressed files are decoded whole, once: the codecs offer no other way.

    Args:
        white_level: as for :func:`read_image`.

    Raises:
        ImageReadError: as :func:`read_image`.
    """

    def __init__(self, path: Path, white_level: int = FULL_RANGE):
        self.path, self.white_level = path, white_level
        self._blocks, self.shape = _uncompressed_blocks(path)
        self._pixels = None
        if not self._blocks:
            self._pixels = read_image(path, white_level)
            self.shape = self._pixels.shape[:2]

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        if self._pixels is not None:
            return self._pixels[key]
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        window = np.empty((bottom - top, right - left, 3), np.uint8)
        for block in self._blocks:
            y0, y1 = max(top, block.top), min(bottom, block.bottom)
            x0, x1 = max(left, block.left), min(right, block.right)
            if y0 < y1 and x0 < x1:
                pixels = block.read(self.path, y0, x0, y1, x1, self.white_level)
                window[y0 - top : y1 - top, x0 - left : x1 - left] = pixels
        return window


def _uncompressed_blocks(path: Path) -> tuple[list[_Block], tuple[int, int]]:
    """The blocks of an upright, complete, uncompressed file and its height and width; no blocks for any other."""
    blocks = []
    try:
        if exif_orientation(path) != 1:
            return [], (0, 0)
        with open_file(path) as image:
            if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
                return [], (0, 0)  # 0 is white
            for codec, (left, top, right, bottom), offset, arguments in image.tile:
                layout, stride, direction = (arguments, 0, 1) if isinstance(arguments, str) else arguments
                if codec != "raw" or image.mode != _LAYOUTS[layout][0]:
                    return [], (0, 0)
                stride = stride or (right - left) * _LAYOUTS[layout][1]
                if offset + stride * (bottom - top) > path.stat().st_size:
                    return [], (0, 0)
                blocks.append(_Block(left, top, right, bottom, offset, layout, stride, direction < 0))
            return blocks, (image.height, image.width)
    except Exception:  # a layout that is not known, a damaged file: decoding it whole tells the reason
        return [], (0, 0)
