"""The flag that takes a size: ``--image_size 512`` is a square, ``--image_size 256 1024`` height and width."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Annotated, Any

from dinov3.defect_cli import positive_int
from dinov3.defect_size import ImageSize, shortest


class StoreSize(argparse.Action):
    """Reads one number of pixels, or height and width; two that are equal are one."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs="+", type=positive_int, metavar=("H", "W"), **options)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """As argparse calls it."""
        try:
            setattr(namespace, self.dest, self.value_of(values))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None

    @staticmethod
    def value_of(values: Sequence[int]) -> ImageSize:
        """What one or two values mean."""
        if len(values) not in (1, 2):
            given = " ".join(map(str, values))
            raise argparse.ArgumentTypeError(f"{given}: expected one number for a square, or height and width")
        return shortest(values)


SizeInPixels = Annotated[ImageSize, StoreSize]  # of a field of a configuration
