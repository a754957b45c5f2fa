"""Masks drawn from very many regions."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from dinov3.data.defect_formats.base import REGION_NOT_DRAWN, ImportReport, SourceImage
from dinov3.data.defect_formats.shapes import box
from dinov3.data.defect_prepare.mask_drawing import MOST_SHAPES, draw_mask


def draw(count: int) -> tuple[np.ndarray | None, ImportReport]:
    places = [(4 * (i % 100), 4 * (i // 100 % 100)) for i in range(count)]
    shapes = tuple(box("pit", x, y, x + 2, y + 2) for x, y in places)
    report = ImportReport()
    sample = SourceImage(Path("a.png"), "a.png", "source", "pit", shapes=shapes)
    return draw_mask(sample, Path("a.png"), (400, 400), ["pit"], report, None), report


def test_thousands_of_regions_take_the_memory_of_one() -> None:
    tracemalloc.start()
    mask, report = draw(3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask is not None and mask.any() and not report.remarks
    assert peak < 60 * 400 * 400  # all at once would be 3000 masks


def test_more_regions_than_a_person_draws_are_named_and_not_drawn() -> None:
    mask, report = draw(MOST_SHAPES + 1)
    assert mask is None
    assert "10001 regions in one image, expected at most 10000" in report.remarks[REGION_NOT_DRAWN][0]
