"""What labels mean: classes, and names that are no class; and the class of each image, in the names of the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from dinov3.data.defect_formats.base import NORMAL, ImportReport, SourceImage
from dinov3.data.defect_formats.copies import without_copies
from dinov3.data.defect_formats.mask_rules import MaskRules
from dinov3.data.defect_formats.masks import marks_of
from dinov3.data.defect_formats.words import BACKGROUND, IGNORE, reserved
from dinov3.data.defect_images import ImageReadError
from dinov3.data.defect_manifest import UNKNOWN
from dinov3.defect_errors import DefectError

Verdict = Literal["none", "normal", "defect", "open"]


def is_class(label: str) -> bool:
    """Whether a final label is a class of defects."""
    return label not in (NORMAL, UNKNOWN, IGNORE, BACKGROUND)


def resolve_labels(
    samples: Iterable[SourceImage],
    report: ImportReport,
    *,
    mapping: dict[str, str] | None = None,
    normal: Sequence[str] = (),
    unannotated: Literal["skip", "normal"] = "skip",
    unmatched: Literal["stop", "skip"] = "stop",
    rules: MaskRules | None = None,
) -> list[SourceImage]:
    """Give every image its class, in the names that the dataset will use.

    An image without a class of its own gets that of its regions, the largest in sum of area if they differ, or of its
    mask. Regions with a label of ``normal`` are background: they mark nothing, and cut what lies under them. Of two
    copies of one file the one that nobody annotated, or that is called normal, is skipped if the other is not.

    Args:
        samples: as the source describes them.
        report: collects the images skipped.
        mapping: {label in the source: class in the dataset}; ``__ignore__`` and ``__background__`` are no classes.
        normal: labels, after mapping, that mean normal, beside 'normal' itself.
        unannotated: what to do with images that nobody annotated.
        unmatched: whether they may be taken as normal though annotations found no image.
        rules: how masks are read.

    Raises:
        DefectError: a label to map is nowhere in the source; it is not clear what a label means; or images would
            become normal while annotations, perhaps theirs, found no image.
    """
    samples, mapping = list(samples), mapping or {}
    found = {s.label for s in samples if s.label} | {shape.label for s in samples for shape in s.shapes or ()}
    _expect_known(found | report.labels, mapping, normal)
    final = {label: _final(label, mapping, normal) for label in found}
    _note_reserved(samples, final, report)
    rules = rules or MaskRules()
    samples = without_copies(samples, report, lambda sample: _verdict(sample, final, rules))
    bare = [s for s in samples if s.label is None and s.shapes is None and not s.masks]
    if bare and unannotated == "normal":
        _expect_matched(bare, report, unmatched)
    resolved = []
    for sample in samples:
        try:
            label = _label(sample, final, report, unannotated, rules)
        except ImageReadError as error:
            report.skipped.append(f"{sample.place}: its verdict is not known; {error}")
            continue
        if label is None:
            continue
        shapes = sample.shapes
        if shapes is not None:
            shapes = tuple(replace(shape, label=_of_region(final[shape.label])) for shape in shapes)
        resolved.append(replace(sample, label=label, shapes=shapes))
    return resolved


def _expect_known(found: set[str], mapping: dict[str, str], normal: Sequence[str]) -> None:
    names = ", ".join(sorted(found)) or "none"
    for strange in sorted(set(mapping) - found):
        raise DefectError(f"--map {strange}={mapping[strange]}: no such label; found: {names}")
    for strange in sorted(set(normal) - found - {mapping.get(name) for name in found} - {NORMAL}):
        raise DefectError(f"--normal {strange}: no such label; found: {names}")


def _final(label: str, mapping: dict[str, str], normal: Sequence[str]) -> str:
    if label in mapping:
        label = mapping[label]
    elif label not in normal:
        label = reserved(label) or label
    return NORMAL if label in normal else label


def _of_region(label: str) -> str:
    return BACKGROUND if label == NORMAL else label


def _note_reserved(samples: list[SourceImage], final: dict[str, str], report: ImportReport) -> None:
    """Say which labels of regions are no class; refuse such a label of a whole image, which could mean anything."""
    regions = Counter(shape.label for sample in samples for shape in sample.shapes or ())
    for label in sorted(regions):
        if final[label] in (IGNORE, BACKGROUND):
            what = "ignored (255)" if final[label] == IGNORE else "background, cut out of what lies under it"
            report.notes.append(f"{label}: {what}, in {regions[label]} regions; --map {label}=CLASS makes it a class")
    wholes = Counter(sample.label for sample in samples if sample.label and final[sample.label] == BACKGROUND)
    for label, count in wholes.items():
        raise DefectError(
            f"{label}: is it a class, or are these good parts? It is the label of {count} whole images; say --normal "
            f"{label}, or --map {label}=CLASS, or --map {label}={IGNORE} to leave them out"
        )


def _expect_matched(bare: list[SourceImage], report: ImportReport, unmatched: str) -> None:
    """Stop where images would become normal whose annotation may be among those that found no image."""
    if not report.lost or unmatched == "skip":
        return
    shown = "\n    ".join(report.lost[:3])
    raise DefectError(
        f"--unannotated normal: {len(report.lost)} annotations found no image, and {len(bare)} images have no "
        f"annotation, first {bare[0].place}: defects would become good parts if these belong together. Correct their "
        "names, or remove them; --unmatched skip goes on without them, if you know that their images are not here:"
        f"\n    {shown}"
    )


def _verdict(sample: SourceImage, final: dict[str, str], rules: MaskRules) -> Verdict:
    """What a source says of an image."""
    if sample.label is not None:
        label = final[sample.label]
        return "normal" if label == NORMAL else "defect" if is_class(label) else "open"
    if sample.shapes is None:
        return _verdict_of_masks(sample, rules) if sample.masks else "none"
    labels = {final[shape.label] for shape in sample.shapes}
    return "defect" if any(map(is_class, labels)) or not sample.whole else "open" if IGNORE in labels else "normal"


def _verdict_of_masks(sample: SourceImage, rules: MaskRules) -> Verdict:
    try:
        defective, ignored = marks_of(sample.masks, rules)
    except ImageReadError:
        return "open"
    return "defect" if defective else "open" if ignored else "normal"


def _label(
    sample: SourceImage, final: dict[str, str], report: ImportReport, unannotated: str, rules: MaskRules
) -> str | None:
    """The final label of an image; None if it is skipped, which is reported."""
    if sample.label is not None:
        label = final.get(sample.label, sample.label)
        if label == IGNORE:
            kind = "images of a label that is to be ignored; skipped"
            report.remarks[kind].append(f"{sample.place}: {sample.label}")
            return None
        return label
    if sample.shapes is None and sample.masks:
        defective, ignored = marks_of(sample.masks, rules)
        return "defect" if defective else _left_open(sample, report) if ignored else NORMAL
    if sample.shapes is None:
        if unannotated == "normal":
            return NORMAL
        hint = "annotations without an image come first" if report.lost else "--unannotated normal takes it as normal"
        report.skipped.append(f"{sample.place}: not annotated ({hint})")
        return None
    areas: Counter[str] = Counter()
    for shape in sample.shapes:
        areas[final[shape.label]] += 1e-9 if shape.vague else max(shape.area, 1e-6)
    classes = sorted(label for label in areas if is_class(label))
    if classes:
        return max(classes, key=areas.__getitem__)
    if not sample.whole:
        report.skipped.append(f"{sample.place}: none of its regions can be used, so its class is not known")
        return None
    return _left_open(sample, report) if IGNORE in areas else NORMAL


def _left_open(sample: SourceImage, report: ImportReport) -> str:
    kind = f"images with ignored regions alone; their verdict stays open (--map LABEL={BACKGROUND} makes them normal)"
    report.remarks[kind].append(sample.place)
    return UNKNOWN
