"""What is wrong with a dataset folder: one small check each, with a count and the first file names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_images import IGNORE_INDEX, ImageReadError, read_image, read_mask
from dinov3.data.defect_manifest import SPLITS, Manifest


@dataclass(frozen=True)
class Issue:
    """One kind of problem: ``error`` breaks training or scores, ``warning`` deserves a look."""

    check: str
    severity: Literal["error", "warning"]
    count: int
    examples: list[str]  # at most five


@dataclass(frozen=True)
class Sample:
    """A row of the manifest with its arrays; ``None`` where there is none or it cannot be read."""

    name: str
    normal: bool
    image: np.ndarray | None
    has_mask: bool
    mask: np.ndarray | None
    mask_values: int  # number of mask classes


def unreadable_image(s: Sample) -> bool:
    return s.image is None


def unreadable_mask(s: Sample) -> bool:
    return s.has_mask and s.mask is None


def size_mismatch(s: Sample) -> bool:
    return s.image is not None and s.mask is not None and s.image.shape[:2] != s.mask.shape


def mask_values(s: Sample) -> bool:
    return s.mask is not None and bool(((s.mask > s.mask_values) & (s.mask != IGNORE_INDEX)).any())


def inverted_mask(s: Sample) -> bool:
    return not s.normal and s.mask is not None and float((s.mask > 0).mean()) > 0.9


def empty_defect_mask(s: Sample) -> bool:
    return not s.normal and s.mask is not None and not s.mask.any()


def nonempty_normal_mask(s: Sample) -> bool:
    return s.normal and s.mask is not None and bool(s.mask.any())


def missing_mask(s: Sample) -> bool:
    return not s.normal and not s.has_mask


SAMPLE_CHECKS: dict[Callable[[Sample], bool], Literal["error", "warning"]] = {
    unreadable_image: "error",
    unreadable_mask: "error",
    size_mismatch: "error",
    mask_values: "error",
    inverted_mask: "warning",
    empty_defect_mask: "warning",
    nonempty_normal_mask: "warning",
    missing_mask: "warning",
}


def check_dataset(manifest: Manifest) -> list[Issue]:
    """Run every check over a dataset; an empty list means that nothing was found."""
    columns = manifest.columns
    found: dict[Callable[[Sample], bool], list[str]] = defaultdict(list)
    for name, mask, label in zip(
        tqdm(columns["image"], desc="check", unit="image"), columns["mask"], columns["label"], strict=True
    ):
        image_array = _read(read_image, manifest.root / name)
        mask_array = _read(read_mask, manifest.root / mask) if mask else None
        sample = Sample(
            name,
            label == manifest.classes[0],
            image_array,
            bool(mask),
            mask_array,
            len(manifest.mask_classes),
        )
        for check in SAMPLE_CHECKS:
            if check(sample):
                found[check].append(str(name))
    issues = [Issue(c.__name__, SAMPLE_CHECKS[c], len(names), names[:5]) for c, names in found.items()]
    return issues + split_leak(manifest) + missing_class(manifest)


def _read(reader: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | None:
    try:
        return reader(path)
    except ImageReadError:
        return None


def split_leak(manifest: Manifest) -> list[Issue]:
    """Groups (physical parts) with images in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(manifest.columns["group"], manifest.columns["split"], strict=True):
        splits[str(group)].add(str(split))
    leaks = [group for group, where in splits.items() if len(where) > 1]
    return [Issue("split_leak", "error", len(leaks), leaks[:5])] if leaks else []


def missing_class(manifest: Manifest) -> list[Issue]:
    """Classes without any image in a split that has images."""
    counts = manifest.counts()
    gaps = [
        f"{split}: {name}"
        for split in SPLITS
        if sum(counts[split].values())
        for name, n in counts[split].items()
        if not n
    ]
    return [Issue("missing_class", "warning", len(gaps), gaps[:5])] if gaps else []
