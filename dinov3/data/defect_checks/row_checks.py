"""What is wrong with a dataset folder: one small check each, with a count and the first file names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from dinov3.data.defect_checks.dataset_checks import (
    Finding,
    class_gaps,
    duplicates,
    imbalance,
    label_conflicts,
    leaks,
    odd_images,
    orphans,
    small_defects,
    unused_range,
)
from dinov3.data.defect_checks.explanations import Text
from dinov3.data.defect_checks.facts import SPECK, Facts, examine
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import MASK_MODES
from dinov3.defect_size import ImageSize

EXAMPLES = 5  # how many are named
INVERTED = 0.9  # a defect that covers more of its image is probably the background

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Issue:
    """One kind of problem: ``error`` breaks training or scores, ``warning`` deserves a look."""

    check: str
    severity: Severity
    count: int
    examples: list[str]  # at most five: files, or classes where the problem is one of classes
    notes: list[Text] = field(default_factory=list, compare=False)  # what is the matter with each of them
    summary: Text | None = field(default=None, compare=False)  # a sentence on all of them, for some checks


# Each of these tells what is the matter with one row, or None.


def unreadable_image(f: Facts) -> Text | None:
    return (f.image_error, f.image_error) if f.image_error else None


def unreadable_mask(f: Facts) -> Text | None:
    if f.mask and f.mask.mode not in MASK_MODES:
        return (
            f"a mask of mode {f.mask.mode}; expected a palette or grey PNG of class indices",
            f"掩码的模式为 {f.mask.mode}；应为由类别编号组成的调色板或灰度 PNG",
        )
    return (f.mask_error, f.mask_error) if f.mask_error else None


def size_mismatch(f: Facts) -> Text | None:
    if not f.image or not f.mask or f.image.size == f.mask.size:
        return None
    mask, image = "{}x{}".format(*f.mask.size), "{}x{}".format(*f.image.size)
    return f"mask {mask}, image {image}", f"掩码 {mask}，图像 {image}"


def mask_values(f: Facts) -> Text | None:
    return (f"values {f.mask.values}", f"取值 {f.mask.values}") if f.mask and f.mask.values else None


def ignored_mask(f: Facts) -> Text | None:
    if not f.mask or f.verdict == "normal" or f.mask.reading != "ignored":
        return None
    return (
        "0 and 255 alone: 255 means ignored, so there is no defect in it",
        "只有 0 和 255：255 表示忽略，因此没有缺陷",
    )


def inverted_mask(f: Facts) -> Text | None:
    if not f.mask or f.verdict == "normal" or f.mask.coverage <= INVERTED:
        return None
    return f"the defect covers {f.mask.coverage:.0%}", f"缺陷覆盖 {f.mask.coverage:.0%}"


def empty_defect_mask(f: Facts) -> Text | None:
    if not f.mask or f.verdict != "defect" or not f.mask.empty:
        return None
    return f"{f.label}, but no defect pixel", f"标为 {f.label}，但没有缺陷像素"


def nonempty_normal_mask(f: Facts) -> Text | None:
    if not f.mask or f.verdict != "normal" or f.mask.empty:
        return None
    share = f"{f.mask.coverage:.2%}"
    return f"defect pixels on {share} of a normal image", f"正常图像中有 {share} 的缺陷像素"


def missing_mask(f: Facts) -> Text | None:
    if f.mask_name or f.verdict == "normal":
        return None
    if f.verdict == "defect":
        return f"{f.label} without mask", f"{f.label}，没有掩码"
    return "neither label nor mask: it teaches nothing", "既无标签也无掩码：对训练没有作用"


def specks(f: Facts) -> Text | None:
    if not f.mask or not f.mask.specks:
        return None
    return (
        f"regions of at most {SPECK} pixels: {f.mask.specks} of {f.mask.regions}",
        f"不超过 {SPECK} 个像素的区域：{f.mask.regions} 个中有 {f.mask.specks} 个",
    )


def blank_image(f: Facts) -> Text | None:
    if not f.image or f.image.contrast >= 1:
        return None
    return f"all of one brightness, {f.image.brightness:.0f}", f"亮度处处相同，为 {f.image.brightness:.0f}"


ROW_CHECKS: dict[Callable[[Facts], Text | None], Severity] = {
    unreadable_image: "error",
    unreadable_mask: "error",
    size_mismatch: "error",
    mask_values: "error",
    ignored_mask: "error",
    inverted_mask: "warning",
    empty_defect_mask: "warning",
    nonempty_normal_mask: "warning",
    missing_mask: "warning",
    specks: "warning",
    blank_image: "warning",
}


def check_dataset(manifest: Manifest, image_size: ImageSize = 512) -> list[Issue]:
    """Run every check over a dataset; an empty list means that nothing was found.

    Args:
        manifest: the dataset.
        image_size: what training will resize images to; defects that get too small are counted.
    """
    return judge(manifest, examine(manifest, image_size), image_size)


def judge(manifest: Manifest, facts: list[Facts], image_size: ImageSize) -> list[Issue]:
    """Run every check over what :func:`examine` found, without reading a file again; errors come first."""
    issues = [
        _issue(check.__name__, severity, (Finding(f.name, note) for f in facts if (note := check(f))))
        for check, severity in ROW_CHECKS.items()
    ]
    tiny, summary = small_defects(facts, image_size)
    issues += [
        _issue("split_leak", "error", *leaks(manifest, facts)),
        _issue("label_conflict", "error", *label_conflicts(facts)),
        _issue("duplicate_image", "warning", duplicates(facts)),
        _issue("unused_range", "warning", unused_range(manifest, facts)),
        _issue("orphan_mask", "warning", orphans(manifest, "masks")),
        _issue("orphan_image", "warning", orphans(manifest, "images")),
        *(_issue(name, "warning", findings) for name, findings in odd_images(facts).items()),
        _issue("small_defects", "warning", tiny, summary=summary),
        _issue("class_imbalance", "warning", imbalance(manifest)),
        *missing_class(manifest),
    ]
    return sorted((issue for issue in issues if issue.count), key=lambda issue: issue.severity != "error")


def missing_class(manifest: Manifest) -> list[Issue]:
    """Classes without any image in a split that has images: one issue, or none."""
    issue = _issue("missing_class", "warning", class_gaps(manifest))
    return [issue] if issue.count else []


def _issue(
    check: str, severity: Severity, findings: Iterable[Finding], count: int | None = None, summary: Text | None = None
) -> Issue:
    found = list(findings)
    # A name that the file system holds but UTF-8 does not must still be printed and written.
    names = [finding.name.encode("utf-8", "backslashreplace").decode() for finding in found[:EXAMPLES]]
    notes = [finding.note for finding in found[:EXAMPLES]]
    return Issue(check, severity, len(found) if count is None else count, names, notes, summary)
