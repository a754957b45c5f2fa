"""Writing a dataset folder from the images of a source: groups, splits, masks in one format."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from dinov3.data.defect_formats.base import NORMAL, ImportReport, SourceImage
from dinov3.data.defect_formats.labels import is_class
from dinov3.data.defect_formats.mask_rules import MaskRules
from dinov3.data.defect_images import (
    FULL_RANGE,
    ImageReadError,
    deep_values,
    expect_within,
    open_image,
    smallest_white_level,
    to_rgb,
)
from dinov3.data.defect_manifest import UNKNOWN, Manifest
from dinov3.data.defect_masks import IGNORE_INDEX
from dinov3.data.defect_prepare.grouping import Grouping, find_groups, groups_across
from dinov3.data.defect_prepare.mask_drawing import draw_mask
from dinov3.data.defect_prepare.ownership import expect_outside
from dinov3.data.defect_prepare.splits import grouped_split
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_errors import DefectError


def organize(
    samples: list[SourceImage],
    report: ImportReport,
    output_dir: Path,
    *,
    val_split: float = 0.2,
    test_split: float = 0.0,
    seed: int = 42,
    own_splits: bool = True,
    grouping: Grouping | None = None,
    rules: MaskRules | None = None,
    link: bool = False,
    overwrite: bool = False,
    command: str = "",
) -> Manifest:
    """Write a dataset folder; ``report`` collects what was skipped or repaired.

    An image that cannot be read is skipped and named; one whose mask cannot be used is kept with its class alone.

    Args:
        samples: with their final labels (:func:`resolve_labels`).
        own_splits: keep the splits of the source where it has them; a validation split it lacks is taken from its
            training images.
        grouping: what tells that images show one part, and so belong in one split; by default their looks.
        rules: how mask files are read (:func:`survey_masks`); by default each by itself.

    Raises:
        DefectError: a class has no usable image, no group matches, the output cannot be written, or images lie in it.
    """
    grouping = grouping or Grouping()
    expect_apart(samples, grouping, output_dir)
    if val_split < 0 or test_split < 0 or val_split + test_split >= 1:
        raise DefectError(
            f"--val_split {val_split} and --test_split {test_split}: expected 0 or more, adding up to less than 1"
        )
    writer = DatasetWriter(output_dir, overwrite)  # what would fail at the end anyway fails before the long work
    _expect_classes({sample.label or UNKNOWN for sample in samples}, samples, report, output_dir)
    names = [sample.name for sample in samples]
    groups = find_groups(names, [sample.image for sample in samples], grouping, report.remarks)
    splits = _splits(samples, groups, val_split, test_split, seed, own_splits)
    spread = groups_across(groups, splits)
    if spread:
        report.remarks["parts in several of the source's own splits (the command leaks shows them)"] += spread
    defect_classes = classes_of(samples)
    if len(defect_classes) >= IGNORE_INDEX:
        raise DefectError(
            f"{len(defect_classes)} classes of defects; a mask holds {IGNORE_INDEX - 1} at most: join some, or give "
            "those that are no defects as normal"
        )
    classes = [NORMAL, *defect_classes]
    with writer:
        write_images(writer, samples, groups, splits, defect_classes, report, link, rules)
        _expect_classes({row["label"] for row in writer.rows}, samples, report, output_dir)
        return writer.finish(classes=classes, mask_classes=defect_classes, seed=seed, command=command)


def _expect_classes(kept: set[str], samples: list[SourceImage], report: ImportReport, output_dir: Path) -> None:
    """Refuse a dataset without good parts, without defects, or that lost all images of a class."""
    found = {sample.label or UNKNOWN for sample in samples}
    lost = sorted({NORMAL, *found} - kept)
    if not lost and len(kept - {UNKNOWN}) > 1:
        return
    why = f"; {len(report.skipped)} skipped, first {report.skipped[0]}" if report.skipped else ""
    if found and NORMAL not in found:
        why += f"; if one of {', '.join(sorted(found - {UNKNOWN}))} means a good part, say so by --normal"
    names = f"class {', '.join(lost)}" if lost else "any defect"
    raise DefectError(f"{output_dir}: not written, no usable image of {names}{why}")


def classes_of(samples: list[SourceImage]) -> list[str]:
    """The classes of defects of images and their regions, sorted."""
    labels = {sample.label for sample in samples} | {s.label for sample in samples for s in sample.shapes or ()}
    return sorted(filter(is_class, labels))


def expect_apart(samples: list[SourceImage], grouping: Grouping, output_dir: Path) -> None:
    """Raise DefectError when an image, a mask or the table of parts to read lies in the folder to write."""
    files = (path for sample in samples for path in (sample.image, *sample.masks) if isinstance(path, Path))
    expect_outside([*files, grouping.csv], output_dir)


def write_images(
    writer: DatasetWriter,
    samples: list[SourceImage],
    groups: list[str],
    splits: list[str],
    mask_classes: list[str],
    report: ImportReport,
    link: bool,
    rules: MaskRules | None = None,
) -> None:
    """Add images with their masks to a dataset; one that cannot be read is skipped and named. The 16-bit images of a
    new dataset decide its ``white_level``."""
    most, brightest = writer.white_level or FULL_RANGE, -1
    for sample, group, split in zip(tqdm(samples, desc="organize", unit="image"), groups, splits, strict=True):
        file = _as_file(sample, writer.folder)
        try:
            image = open_image(file)
            width, height = to_rgb(image).size
            values = deep_values(file, image)
            if values is not None:
                expect_within(file, int(values.max()), most)
                brightest = max(brightest, int(values.max()))
        except (ImageReadError, ValueError) as error:
            report.skipped.append(str(error).replace(str(file), sample.place))
            continue
        mask = draw_mask(sample, file, (height, width), mask_classes, report, rules)
        writer.add(
            file,
            sample.name,
            mask,
            label=sample.label or UNKNOWN,
            split=split,
            group=group,
            source=sample.source,
            link=link and file == sample.image,
        )
    (writer.folder / "embedded").unlink(missing_ok=True)
    if brightest >= 0 and writer.white_level is None:
        writer.white_level = smallest_white_level(brightest)
        if writer.white_level != FULL_RANGE:
            report.notes.append(
                f"the 16-bit images have values up to {brightest}, so {writer.white_level} is taken for white, the "
                f"{writer.white_level.bit_length()}-bit range, here and in inspection (white_level in dataset.json)"
            )


def _as_file(sample: SourceImage, folder: Path) -> Path:
    """The image as a file: an embedded one goes to ``folder``, in place of the one before."""
    if isinstance(sample.image, Path):
        return sample.image
    file = folder / "embedded"
    file.write_bytes(sample.image())
    return file


def _splits(
    samples: list[SourceImage], groups: list[str], val_split: float, test_split: float, seed: int, own_splits: bool
) -> list[str]:
    """The split of each image: the source's own where it is to be kept, else that which all of its group have that have
    one, else one assigned by class and group."""
    splits = [sample.split if own_splits else None for sample in samples]
    given = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        given[group] |= {split} - {None}
    if "train" in splits and "val" not in splits and val_split > 0:
        splits = [None if split == "train" else split for split in splits]
        test_split = test_split if "test" not in splits else 0.0
    free = [i for i, split in enumerate(splits) if split is None]
    strata = [NORMAL if s.label == NORMAL else f"{s.label}/{s.source}" for s in samples]
    fractions = {"train": 1 - val_split - test_split, "val": val_split, "test": test_split}
    fixed = {group: min(found) for group, found in given.items() if len(found) == 1 and found <= set(splits)}
    assigned = grouped_split([strata[i] for i in free], [groups[i] for i in free], fractions, seed, fixed)
    for i, split in zip(free, assigned, strict=True):
        splits[i] = split
    return [split or "train" for split in splits]
