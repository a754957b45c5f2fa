"""A pass of a finished model over the images of a split, on any engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from dinov3.data.defect_images import ImageReadError, read_for_size
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_masks import read_mask
from dinov3.data.defect_prepare.evidence import independent_parts
from dinov3.data.defect_read_ahead import read_ahead
from dinov3.data.defect_resize import resize_image
from dinov3.data.defect_tiles import Tiling
from dinov3.defect_display import on_a_line
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.models.defect_engines import Engine
from dinov3.models.defect_facts import ModelFacts
from dinov3.models.defect_sliding_window import slide_window


def read_split(facts: ModelFacts, source: Path, data_root: Path, split: str) -> Manifest:
    """The rows of one split of a dataset folder, for a model read from ``source``; copies and near-duplicates among
    them, which are said, have one group with what they are copies of.

    Raises:
        DefectError: no such images, or other classes than the model's.
    """
    rows = read_manifest(data_root).select(split)
    if len(rows) == 0:
        raise DefectError(f"{data_root}: no images in the {split} split; organize again with --{split}_split")
    if rows.classes != list(facts.classes):
        raise DefectError(f"{source}: its classes are {list(facts.classes)}, the dataset's {rows.classes}")
    evidence = independent_parts(rows)
    if evidence.joined:
        print(evidence)
    return evidence.rows


def score(
    engine: Engine,
    rows: Manifest,
    results: ImageResults,
    *,
    batch_size: int,
    num_workers: int,
    description: str = "evaluate",
    progress: bool = True,
) -> None:
    """Fill ``results`` with what ``engine`` makes of ``rows``, in their order.

    A model of tiles sees tiles, and its masks are judged at full resolution. Unreadable images are reported; they keep
    their place, and count nowhere.

    Args:
        batch_size: images, or tiles of an image, at a time.
        num_workers: threads that read images.
    """
    tiling = Tiling.of(engine.facts.to_table())
    reader = _RowReader(rows, None if tiling else engine.facts.image_size)
    items = read_ahead(range(len(rows)), reader, num_workers, 1 if tiling else 2 * batch_size)
    items = tqdm(items, desc=description, unit="image", total=len(rows), disable=not progress, leave=False)
    for answer in _by_tiles(engine, items, tiling, batch_size) if tiling else _in_batches(engine, items, batch_size):
        results.add(*answer)


class _Row(NamedTuple):
    """A row of a manifest as it was read: the image's pixels, and what is true of it."""

    pixels: np.ndarray | None  # (H, W, 3) uint8; None: unreadable
    label: int  # class index, -1 unknown
    mask: np.ndarray  # (H, W) uint8 class indices, all zero where there is none
    has_mask: bool  # a normal image's mask is all zero and counts as one


class _Answer(NamedTuple):
    """The arguments of ``ImageResults.add``."""

    class_prob: np.ndarray
    mask_prob: np.ndarray
    label: int
    mask: np.ndarray
    has_mask: bool


class _RowReader:
    """Reads rows by number, resized to ``size`` (height, width) unless None."""

    def __init__(self, rows: Manifest, size: tuple[int, int] | None):
        self.rows, self.size, self.labels = rows, size, rows.labels

    def __call__(self, index: int) -> _Row:
        columns, root, size = self.rows.columns, self.rows.root, self.size
        label, name = int(self.labels[index]), str(columns["mask"][index])
        try:
            pixels, full_size = read_for_size(root / columns["image"][index], size, self.rows.white_level)
            mask = read_mask(root / name) if name else None
            if mask is not None and mask.shape != full_size:
                raise ImageReadError(f"{root / name}: mask and image differ in size; run --check_data")
        except ImageReadError as problem:
            tqdm.write(on_a_line(f"skipped: {problem}"))
            return _Row(None, -1, np.zeros(size or (1, 1), np.uint8), False)
        if size is not None:
            pixels = resize_image(pixels, size)
            if mask is not None:
                mask = cv2.resize(np.ascontiguousarray(mask), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if mask is None:
            mask = np.zeros(pixels.shape[:2], np.uint8)
        return _Row(pixels, label, mask, bool(name) or label == 0)


def _in_batches(engine: Engine, items: Iterator[_Row], batch_size: int) -> Iterator[_Answer]:
    batch: list[_Row] = []
    for number, item in enumerate(items, start=1):
        batch.append(item)
        if number % batch_size == 0:
            yield from _answers(engine, batch)
            batch = []
    yield from _answers(engine, batch)


def _answers(engine: Engine, batch: list[_Row]) -> Iterator[_Answer]:
    readable = [item.pixels for item in batch if item.pixels is not None]
    output = engine.run(np.stack(readable)) if readable else None
    place = 0
    for item in batch:
        if item.pixels is None:
            yield _no_answer(engine, item)
            continue
        yield _Answer(
            output.class_prob[place], output.mask_prob[place].max(axis=0), item.label, item.mask, item.has_mask
        )
        place += 1


def _by_tiles(engine: Engine, items: Iterator[_Row], tiling: Tiling, batch_size: int) -> Iterator[_Answer]:
    for item in items:
        if item.pixels is None:
            yield _no_answer(engine, item)
            continue
        size = engine.facts.image_size
        output = slide_window(lambda tiles, _: engine.start(tiles), item.pixels, tiling, size, batch_size=batch_size)
        yield _Answer(output.class_prob, output.mask_prob, item.label, item.mask, item.has_mask)


def _no_answer(engine: Engine, item: _Row) -> _Answer:
    class_prob = np.full(len(engine.facts.classes), np.nan, np.float32)
    return _Answer(class_prob, np.zeros(item.mask.shape, np.float32), item.label, item.mask, item.has_mask)
