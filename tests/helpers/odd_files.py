"""Image files of every kind that people put into a folder, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SHAPE = (40, 56)  # of the images here, but where they lie on their side
GREY = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, GREY])


def encoded(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def on_its_side() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(np.ascontiguousarray(np.rot90(RGB)), "JPEG", exif=exif)


def interlaced_png() -> bytes:
    """Pillow reads interlaced PNG files but writes none: seven passes of 8-bit grey (PNG specification, 8.2)."""
    rows = b""
    for y, x, dy, dx in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
    ):  # fmt: skip
        rows += b"".join(b"\0" + line.tobytes() for line in GREY[y::dy, x::dx])
    return png(SHAPE, rows, interlace=1)


def png(shape: tuple[int, int], rows: bytes, interlace: int = 0) -> bytes:
    """An 8-bit grey PNG file."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, 0, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PAGES = [Image.fromarray(RGB), Image.fromarray(RGB // 2)]
GOOD: dict[str, Callable[[], bytes]] = {
    "grey.jpg": lambda: encoded(GREY, "JPEG"),
    "cmyk.jpg": lambda: encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "progressive.jpeg": lambda: encoded(RGB, "JPEG", progressive=True),
    "turned.JPG": on_its_side,
    "8 bit.png": lambda: encoded(RGB, "PNG"),
    "16 bit.png": lambda: encoded(GREY.astype(np.uint16) * 257, "PNG"),
    "palette.png": lambda: encoded(Image.fromarray(RGB).convert("P"), "PNG"),
    "alpha.png": lambda: encoded(RGBA, "PNG"),
    "interlaced.png": interlaced_png,
    "plain.bmp": lambda: encoded(RGB, "BMP"),
    "16 bit.tif": lambda: encoded(GREY.astype(np.uint16) * 257, "TIFF"),
    "float.tiff": lambda: encoded(GREY.astype(np.float32) / 255, "TIFF"),
    "pages.tif": lambda: encoded(PAGES[0], "TIFF", save_all=True, append_images=PAGES[1:]),
    "lzw.tif": lambda: encoded(RGB, "TIFF", compression="tiff_lzw"),
    "deflate.tif": lambda: encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tif": lambda: encoded(RGB, "TIFF", compression="jpeg"),
    "fax.tif": lambda: encoded(Image.fromarray(GREY > 128), "TIFF", compression="group4"),
    "lossy.webp": lambda: encoded(RGB, "WEBP"),
    "moving.gif": lambda: encoded(PAGES[0], "GIF", save_all=True, append_images=PAGES[1:]),
    "in truth a PNG.jpg": lambda: encoded(RGB, "PNG"),
    "one pixel.png": lambda: encoded(GREY[:1, :1], "PNG"),
    "a line.png": lambda: encoded(np.zeros((1, 3000), np.uint8), "PNG"),
}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut.jpg": (lambda: encoded(RGB, "JPEG")[:-400], "truncated"),
    "cut.png": (lambda: encoded(RGB, "PNG")[:-900], "truncated"),
    "cut.tif": (lambda: encoded(RGB, "TIFF")[:-900], "truncated"),
    "header.jpg": (lambda: encoded(RGB, "JPEG")[:20], "not an image"),
    "zero bytes.png": (lambda: b"", "empty file"),
    "text.jpg": (lambda: b"not an image", "not an image"),
    "zeros.bmp": (lambda: bytes(5000), "not an image"),
    "bomb.png": (lambda: png((60000, 60000), bytes(1000)), "too large to decode safely"),
}
