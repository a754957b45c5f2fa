"""KolektorSDD2: an image and its mask side by side, in folders train and test."""

from __future__ import annotations

from pathlib import Path

from dinov3.data.defect_files import list_images, one_spelling
from dinov3.data.defect_formats.base import (
    MASK_WITHOUT_IMAGE,
    ImportOptions,
    ImportReport,
    SourceImage,
)
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.folders import folder_name
from dinov3.data.defect_formats.parsing import kept_splits


def read_ksdd2(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """KolektorSDD2 (Božič et al. 2021): ``train`` and ``test`` with ``10000.png`` and its mask ``10000_GT.png``.

    An image is defective where its mask marks something; without a mask nobody annotated it.

    Raises:
        DefectError: no such folders, or no masks in them.
    """
    root = options.images or source
    truths = {split: list_images(source / split) for split in ("train", "test") if (source / split).is_dir()}
    answers = [(split, p) for split, paths in truths.items() for p in paths if p.stem.endswith("_GT")]
    masks = {(split, one_spelling(path.stem[:-3])): path for split, path in answers}
    if not masks:
        raise wrong_layout(source, "ksdd2", "train/ and test/ with pairs NAME.png and NAME_GT.png")
    samples = []
    for split in ("train", "test"):
        for path in list_images(root / split) if (root / split).is_dir() else ():
            if path.stem.endswith("_GT"):
                continue
            mask = masks.pop((split, one_spelling(path.stem)), None)
            name = path.relative_to(root).as_posix()
            samples.append(SourceImage(path, name, folder_name(root), masks=(mask,) if mask else (), split=split))
    report.remark(MASK_WITHOUT_IMAGE, list(masks.values()))
    return kept_splits(samples, report)
