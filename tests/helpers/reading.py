"""Reading a source in this process, up to what a dataset would say of its images: label and mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinov3.data.defect_formats.base import ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.folders import scan_folders
from dinov3.data.defect_formats.labels import resolve_labels
from dinov3.data.defect_formats.mask_rules import MaskRules, survey_masks
from dinov3.data.defect_formats.registry import IMPORTERS
from dinov3.data.defect_images import read_image
from dinov3.data.defect_prepare.mask_drawing import draw_mask
from dinov3.data.defect_prepare.organize import classes_of


@dataclass
class Read:
    """What a dataset would hold.

    Attributes:
        labels: {name: class}.
        masks: {name: (H, W) class indices, or None}.
        classes: of the masks, from value 1 on.
        report: what was skipped or repaired.
    """

    labels: dict[str, str]
    masks: dict[str, np.ndarray | None]
    classes: list[str]
    report: ImportReport

    @property
    def said(self) -> str:
        """All that the user is told."""
        lines = [f"{kind}: {line}" for kind, found in self.report.remarks.items() for line in found]
        return "\n".join([*self.report.notes, *self.report.skipped, *lines])

    def pixels(self, name: str, value: int | None = None) -> int:
        """How many pixels of an image's mask have a value; by default that of any class."""
        mask = self.masks.get(name)
        if mask is None:
            return 0
        return int((mask == value).sum() if value is not None else ((mask > 0) & (mask < 255)).sum())


def read_source(
    kind: str,
    source: Path,
    *,
    images: Path | None = None,
    mapping: dict[str, str] | None = None,
    normal: tuple[str, ...] = (),
    unannotated: str = "skip",
    unmatched: str = "stop",
    flag_classes: tuple[str, ...] = (),
    flag_notes: tuple[str, ...] = (),
    rules: MaskRules | None = None,
) -> Read:
    """What ``import`` makes of a source. Raises DefectError as it does."""
    report = ImportReport()
    options = ImportOptions(images, 3, normal, tuple(mapping or ()), flag_classes, flag_notes)
    samples = IMPORTERS[kind](source, options, report)
    asked = {"mapping": mapping, "normal": normal, "unannotated": unannotated, "unmatched": unmatched}
    return _drawn(samples, report, rules or MaskRules(), **asked)


def read_folders(bad: Path, masks: Path, good: Path, rules: MaskRules | None = None) -> Read:
    """What ``organize`` makes of folders."""
    report = ImportReport()
    samples = scan_folders([bad], [masks], [good], report)
    return _drawn(samples, report, rules or MaskRules())


def _drawn(samples: list[SourceImage], report: ImportReport, rules: MaskRules, **asked: object) -> Read:
    rules = survey_masks([path for sample in samples for path in sample.masks], rules)
    samples = resolve_labels(samples, report, rules=rules, **asked)
    classes = classes_of(samples)
    masks = {}
    for sample in samples:
        size = read_image(sample.image).shape[:2]
        masks[sample.name] = draw_mask(sample, sample.image, size, classes, report, rules)
    return Read({sample.name: sample.label for sample in samples}, masks, classes, report)
