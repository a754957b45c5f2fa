"""Importers: from a folder tree as people keep it to a dataset folder. Here: plain folders of images and masks."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_images import ImageReadError, exif_orientation, list_images, read_foreign_mask, read_image
from dinov3.data.defect_manifest import DatasetWriter, Manifest
from dinov3.data.defect_pairing import pair_masks, tell_masks
from dinov3.data.defect_splits import find_group, grouped_split, read_groups
from dinov3.defect_errors import DefectError

NORMAL = "normal"


@dataclass(frozen=True)
class SourceImage:
    """One image to import."""

    path: Path
    mask: Path | None
    label: str
    source: str  # which folder it came from
    name: str  # where it goes below images/


@dataclass
class ImportReport:
    """What an import had to leave out or repair: lines that name the file, by kind of problem."""

    skipped: list[str] = field(default_factory=list)  # images that are not in the dataset
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # the rest, by kind


def folder_tags(folders: list[Path]) -> list[str]:
    """A short unique name per folder: its last path component that no other has
    (``MT_Break/Imgs`` and ``MT_Crack/Imgs`` become ``MT_Break`` and ``MT_Crack``), else its own, numbered."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    tags: list[str] = []
    for i, own in enumerate(parts):
        others = {part for j, other in enumerate(parts) if j != i for part in other}
        name = next((part for part in reversed(own) if part not in others), own[-1]).strip("/\\:") or "images"
        tag, count = name, 2
        while tag in tags:
            tag, count = f"{name}_{count}", count + 1
        tags.append(tag)
    return tags


def _own_files(folder: Path, given: set[Path]) -> list[Path]:
    """The image files below a folder, less those of other given folders further down."""
    base = folder.resolve()
    inner = [other for other in given if other != base and other.is_relative_to(base)]
    files = [(path, base / path.relative_to(folder)) for path in list_images(folder)]
    return [path for path, place in files if not any(place.is_relative_to(other) for other in inner)]


def _find_files(folders: list[Path], mask_folders: list[Path]) -> tuple[list[list[Path]], list[list[Path]], list[Path]]:
    """The images of each folder, the masks among them, and the masks of the mask folders."""
    places = [folder.resolve() for folder in folders]
    given = {*places, *(folder.resolve() for folder in mask_folders)}
    images: list[list[Path]] = []
    masks: list[list[Path]] = []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise DefectError(f"{folder}: given twice as a folder of images; each image counts once, normal or defect")
        own_images, own_masks = tell_masks(_own_files(folder, given))
        if not own_images:
            raise DefectError(f"{folder}: no images in it; expected files such as .jpg or .png")
        images.append(own_images)
        masks.append(own_masks)
    apart: dict[Path, list[Path]] = {}
    for folder in mask_folders:
        place = folder.resolve()
        if place in places:
            number = places.index(place)
            _expect_masks_among(folder, images[number], masks[number])
        else:
            apart[place] = _own_files(folder, given)
            if not apart[place]:
                raise DefectError(f"{folder}: no masks in it; expected image files, best .png")
    return images, masks, [mask for files in apart.values() for mask in files]


def _expect_masks_among(folder: Path, images: list[Path], masks: list[Path]) -> None:
    """A folder given for images and for masks must hold both, and none that could be either."""
    expected = "in one folder, expected mask a.png beside image a.jpg, or a_mask.png beside a.png"
    first: dict[Path, Path] = {}
    for image in images:
        twin = first.setdefault(image.with_suffix(""), image)
        if twin != image:
            raise DefectError(f"{twin} and {image.name}: which is the image, which the mask? {expected}")
    if not masks:
        raise DefectError(f"{folder}: no masks among its images; {expected}")


def scan_folders(
    defect_images: list[Path], defect_masks: list[Path], normal_images: list[Path], classes_from_folders: bool
) -> tuple[list[SourceImage], ImportReport]:
    """Find the images and pair them with masks.

    A folder may lie inside another: its files are then its own alone. Images and masks may share a folder.

    Raises:
        DefectError: a folder is missing, given twice, or holds no image; no mask fits any image; a class is not
            told by a folder.
    """
    folders = defect_images + normal_images
    images, masks, masks_apart = _find_files(folders, defect_masks)
    split = len(defect_images)
    report = ImportReport()
    defects, normals = sum(images[:split], []), sum(images[split:], [])
    candidates = [*sum(masks[:split], []), *masks_apart]
    pairs, tied = pair_masks(defects, candidates)
    if candidates:
        _report_unpaired(defects, candidates, pairs, tied, report)
    # What is left may be the empty masks of normal images.
    used = set(pairs.values())
    masks_of_normals = [*sum(masks[split:], []), *(mask for mask in masks_apart if mask not in used)]
    pairs |= pair_masks(normals, masks_of_normals)[0]
    orphans = {*candidates, *masks_of_normals} - set(pairs.values())
    if orphans:
        report.remarks["masks that no image takes; left out"] += map(str, sorted(orphans))

    samples: list[SourceImage] = []
    for number, (folder, tag) in enumerate(zip(folders, folder_tags(folders), strict=True)):
        for path in images[number]:
            relative = path.relative_to(folder)
            label = NORMAL if number >= split else "defect"
            if classes_from_folders and label != NORMAL:
                label = _class_of(relative, folder) if split == 1 else tag
                if label == NORMAL:
                    raise DefectError(f"{path}: a defect class cannot be called {NORMAL}; give it as --normal_images")
            samples.append(SourceImage(path, pairs.get(path), label, tag, f"{tag}/{relative.as_posix()}"))
    return samples, report


def _class_of(relative: Path, folder: Path) -> str:
    if len(relative.parts) == 1:
        raise DefectError(
            f"{folder / relative}: --classes_from_folders expects one subfolder per class in {folder}, or one "
            "--defect_images folder per class"
        )
    return relative.parts[0]


def _report_unpaired(
    images: list[Path], masks: list[Path], pairs: dict[Path, Path], tied: list[Path], report: ImportReport
) -> None:
    """Name the defect images without a mask; not a single pair is an error."""
    if not pairs and not tied:
        raise DefectError(
            f"none of the {len(masks)} masks, first {masks[0]}, is named after an image, first {images[0]}; "
            "expected the same file name up to the suffix, or with _mask at its end"
        )
    if tied:
        report.remarks["images that several masks fit, or share a mask; imported without"] += map(str, tied)
    bare = sorted(set(images) - set(pairs) - set(tied))
    if bare:
        report.remarks["defect images without a mask of their name; they train the class alone"] += map(str, bare)


def organize(
    samples: list[SourceImage],
    report: ImportReport,
    output_dir: Path,
    *,
    val_split: float = 0.2,
    test_split: float = 0.0,
    seed: int = 42,
    group_csv: Path | None = None,
    link: bool = False,
    overwrite: bool = False,
    command: str = "",
) -> Manifest:
    """Write a dataset folder from scanned images; ``report`` collects what was skipped or repaired.

    An image that cannot be read is skipped and named; one whose mask cannot be used is kept with its class alone.

    Raises:
        DefectError: a class has no usable image, no group matches, the output cannot be written, or images lie in it.
    """
    place = output_dir.resolve()
    inside = next((s.path for s in samples if s.path.resolve().is_relative_to(place)), None)
    if inside:
        raise DefectError(f"{inside}: lies in --output_dir {output_dir}; choose another folder to write")
    if val_split < 0 or test_split < 0 or val_split + test_split >= 1:
        raise DefectError(
            f"--val_split {val_split} and --test_split {test_split}: expected 0 or more, adding up to less than 1"
        )
    groups = _groups(samples, group_csv, report)
    fractions = {"train": 1 - val_split - test_split, "val": val_split, "test": test_split}
    strata = [NORMAL if s.label == NORMAL else f"{s.label}/{s.source}" for s in samples]
    splits = grouped_split(strata, groups, fractions, seed)
    defect_classes = sorted({s.label for s in samples} - {NORMAL})
    classes = [NORMAL, *defect_classes]
    with DatasetWriter(output_dir, overwrite) as writer:
        for sample, group, split in zip(tqdm(samples, desc="organize", unit="image"), groups, splits, strict=True):
            try:
                size = read_image(sample.path).shape[:2]
            except ImageReadError as error:
                report.skipped.append(str(error))
                continue
            mask = _class_mask(sample, size, classes.index(sample.label), report)
            writer.add(
                sample.path,
                sample.name,
                mask,
                label=sample.label,
                split=split,
                group=group,
                source=sample.source,
                link=link,
            )
        kept = {row["label"] for row in writer.rows}
        lost = [name for name in classes if name not in kept]
        if lost or len(kept) < 2:
            why = f"; {len(report.skipped)} cannot be read, first {report.skipped[0]}" if report.skipped else ""
            names = ", ".join(lost) or "defect"
            raise DefectError(f"{output_dir}: not written, no usable image of class {names}{why}")
        return writer.finish(classes=classes, mask_classes=defect_classes, seed=seed, command=command)


def _groups(samples: list[SourceImage], group_csv: Path | None, report: ImportReport) -> list[str]:
    """The physical part of each image; its own name where nothing is known."""
    if group_csv is None:
        return [sample.name for sample in samples]
    table = read_groups(group_csv)
    found = [find_group(sample.path.absolute(), table) for sample in samples]
    unknown = [sample.path for sample, group in zip(samples, found, strict=True) if group is None]
    if len(unknown) == len(samples):
        raise DefectError(
            f"{group_csv}: none of its images is among the {len(samples)} given; paths are matched by their end"
        )
    if unknown:
        report.remarks[f"images not in {group_csv}; each is its own group"] += map(str, unknown)
    return [group or sample.name for sample, group in zip(samples, found, strict=True)]


def _class_mask(sample: SourceImage, size: tuple[int, int], value: int, report: ImportReport) -> np.ndarray | None:
    if sample.mask is None:
        return None
    try:
        mask, remarks = read_foreign_mask(sample.mask, size, exif_orientation(sample.path))
    except ImageReadError as error:
        report.remarks["mask cannot be used; imported without mask"].append(str(error))
        return None
    for kind, detail in remarks:
        report.remarks[kind].append(f"{sample.mask}: {detail}")
    if sample.label == NORMAL:
        if mask.any():
            kind = "defect pixels in the mask of a normal image; mask left out"
            report.remarks[kind].append(f"{sample.mask}: {int(mask.sum())} pixels")
        return None  # a normal image has an implied all-zero mask
    return mask * np.uint8(value)
