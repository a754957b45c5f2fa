"""The size that a network sees: one number of pixels is a square, two are height and width."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from dinov3.defect_errors import DefectError

ImageSize = int | tuple[int, int]


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """``size`` as height and width.

    Raises:
        DefectError: it is neither a whole number from 1 nor two of them.
    """
    sides = (size,) if isinstance(size, Integral) else tuple(size)
    if len(sides) not in (1, 2) or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        given = " ".join(map(str, sides))
        raise DefectError(f"image size {given}: expected one whole number of pixels from 1, or height and width")
    return int(sides[0]), int(sides[-1])


def shortest(size: int | Sequence[int]) -> ImageSize:
    """``size`` in the form that flags, configurations and checkpoints have: one number if it is a square."""
    height, width = height_width(size)
    return height if height == width else (height, width)


def size_text(size: int | Sequence[int], between: str = " x ") -> str:
    """Such as ``512`` or, height first, ``256 x 1024``."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height}{between}{width}"
