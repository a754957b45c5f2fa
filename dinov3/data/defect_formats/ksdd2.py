"""KolektorSDD2: an image and its mask side by side, in folders train and test."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from dinov3.data.defect_files import list_images, one_spelling, spelled_as
from dinov3.data.defect_formats.base import (
    MASK_WITHOUT_IMAGE,
    ImportOptions,
    ImportReport,
    SourceImage,
)
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.folders import folder_name
from dinov3.data.defect_formats.masks import marks_of
from dinov3.data.defect_formats.pairing import masks_for
from dinov3.data.defect_formats.parsing import kept_splits
from dinov3.data.defect_images import ImageReadError


def read_ksdd2(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """KolektorSDD2 (Božič et al. 2021): ``train`` and ``test`` with ``10000.png`` and its mask ``10000_GT.png``.

    An image is defective where its mask marks something; without a mask nobody annotated it.

    Raises:
        DefectError: no such folders, or no masks in them.
    """
    root = options.images or source
    samples: list[SourceImage] = []
    answers = 0
    for split in ("train", "test"):
        masks: dict[str, list[Path]] = defaultdict(list)
        for path in filter(_is_mask, _images(source, split)):
            masks[one_spelling(path.stem[:-3])].append(path)
        answers += len(masks)
        images = [path for path in _images(root, split) if not _is_mask(path)]
        masks_of = masks_for(images, masks)
        for path in images:
            name = path.relative_to(root).as_posix()
            samples.append(SourceImage(path, name, folder_name(root), masks=tuple(masks_of.get(path, ())), split=split))
        left = [path for paths in masks.values() for path in paths]
        report.remark(MASK_WITHOUT_IMAGE, left)
        report.lost += [str(path) for path in left if _may_mark(path)]
    if not answers:
        raise wrong_layout(source, "ksdd2", "train/ and test/ with pairs NAME.png and NAME_GT.png")
    return kept_splits(samples, report)


def _images(base: Path, split: str) -> list[Path]:
    folder = spelled_as(base / split, base)
    return list_images(folder) if folder and folder.is_dir() else []


def _is_mask(path: Path) -> bool:
    return path.stem.upper().endswith("_GT")


def _may_mark(mask: Path) -> bool:
    try:
        return any(marks_of([mask]))
    except ImageReadError:
        return True
