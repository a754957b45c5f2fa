"""Reading images: a damaged file is a picture or refused, whole or in windows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzzing import BYTE_EDITS, edited_bytes, fuzz
from PIL import Image

from dinov3.data.defect_images import ImageReadError, exif_orientation, read_for_size, read_image
from dinov3.data.defect_partial_read import WindowReader

GREY = (np.arange(24 * 40).reshape(24, 40) % 251).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T.reshape(24, 40), 255 - GREY], axis=2)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "bmp": encoded(COLOUR, "BMP"),
    "gif": encoded(GREY, "GIF"),
    "ico": encoded(COLOUR, "ICO"),
    "jpg": encoded(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "progressive.jpg": encoded(COLOUR, "JPEG", progressive=True),
    "jp2": encoded(COLOUR, "JPEG2000"),
    "pcx": encoded(COLOUR, "PCX"),
    "png": encoded(COLOUR, "PNG"),
    "deep.png": encoded(GREY.astype(np.uint16) * 257, "PNG"),
    "ppm": encoded(COLOUR, "PPM"),
    "sgi": encoded(COLOUR, "SGI"),
    "tga": encoded(COLOUR, "TGA"),
    "tif": encoded(COLOUR, "TIFF"),
    "deep.tif": encoded(GREY.astype(np.uint16) * 257, "TIFF"),
    "float.tif": encoded(GREY.astype(np.float32) / 255, "TIFF"),
    "packed.tif": encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "webp": encoded(COLOUR, "WEBP"),
}


@pytest.mark.filterwarnings("ignore")  # Pillow and numpy warn of what they repair
@pytest.mark.parametrize("name", FILES)
def test_damaged_image(tmp_path: Path, name: str):
    path = tmp_path / f"a.{name}"

    def target(edits):
        path.write_bytes(edited_bytes(FILES[name], edits))
        try:
            pixels = read_image(path)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert exif_orientation(path) in range(1, 9)
            small, full = read_for_size(path, 4)
            assert small.size and full == pixels.shape[:2]
        except ImageReadError as error:
            assert str(error).startswith(str(path)) and len(str(error)) < 1000
        try:
            reader = WindowReader(path)
            assert reader[0:4, 0:6].shape == (min(4, reader.shape[0]), min(6, reader.shape[1]), 3)
        except ImageReadError:
            pass

    fuzz(target, BYTE_EDITS, examples=10)
