"""Run lengths, by which COCO and CVAT store bitmaps: checked, then drawn.

pycocotools, which writes the compressed form, does not check what it reads: from runs that fall short of the bitmap it
returns memory that nobody wrote.
"""

from __future__ import annotations

import numpy as np

from dinov3.data.defect_formats.shapes import EmptyShapeError, Shape, ShapeError, bitmap

_LONGEST_RUN = 2**32  # pixels; sums of longer ones could overflow


def run_lengths(
    label: str, runs: object, width: int, height: int, x: int = 0, y: int = 0, *, by_column: bool = False
) -> Shape:
    """A bitmap of ``width`` by ``height`` pixels as lengths of runs, off and on in turn, the first one off.

    Args:
        runs: a list of integers, or COCO's compressed string of them.
        x, y: where the top left corner of the bitmap lies in the image.
        by_column: the runs go down the columns, as in COCO, not along the rows.

    Raises:
        ShapeError: not such runs, or they don't add up to the bitmap.
        EmptyShapeError: no pixel is on.
    """
    lengths = _decompress(runs) if isinstance(runs, str) else _checked(runs)
    if width < 1 or height < 1 or lengths.sum() != width * height:
        raise ShapeError(f"runs of {lengths.sum()} pixels in a bitmap of {width}x{height}")
    area = float(lengths[1::2].sum())
    if not area:
        raise EmptyShapeError("a bitmap without any set pixel")

    def draw(image_height: int, image_width: int) -> np.ndarray:
        if width > image_width or height > image_height:
            raise ShapeError(f"a bitmap of {width}x{height} for an image of {image_width}x{image_height}")
        pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        pixels = pixels.reshape(width, height).T if by_column else pixels.reshape(height, width)
        return bitmap(label, pixels, x, y).draw(image_height, image_width)

    return Shape(label, area, draw)


def _checked(runs: object) -> np.ndarray:
    if not isinstance(runs, list) or not all(type(run) is int and 0 <= run < _LONGEST_RUN for run in runs):
        raise ShapeError("run lengths that are not a list of whole numbers from 0 on")
    return np.array(runs, dtype=np.int64)


def _decompress(text: str) -> np.ndarray:
    """The runs in COCO's compressed string: five bits a character from '0' on, lowest first, a sixth says that the
    number goes on; from the fourth run on, the difference to the run before the last."""
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    digits = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63 or digits.max() > 8:
        raise ShapeError("a compressed mask that is broken or cut off")
    starts = ends - digits + 1
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, digits))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= (codes[ends] & 16 != 0) * (1 << 5 * digits)  # the highest bit is the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0 or values.max() >= _LONGEST_RUN:
        raise ShapeError("a compressed mask with runs below zero, or longer than any image")
    return values
