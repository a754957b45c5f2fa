"""Importers: from a folder tree as people keep it to a dataset folder. Here: plain folders of images and masks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dinov3.data.defect_images import ImageReadError, list_images, read_foreign_mask, read_image
from dinov3.data.defect_manifest import DatasetWriter, Manifest
from dinov3.data.defect_splits import find_group, grouped_split, read_groups
from dinov3.defect_errors import DefectError

_MASK_SUFFIX = re.compile(r"[_\-. ](mask|masks|gt|label|labels|seg|annotation|ground_?truth)$", re.IGNORECASE)
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
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
    """A short unique name per folder: its last path component that tells it from the others
    (``MT_Break/Imgs`` and ``MT_Crack/Imgs`` become ``MT_Break`` and ``MT_Crack``)."""
    parts = [list(folder.resolve().parts) for folder in folders]
    while len(folders) > 1 and min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    tags: list[str] = []
    for p in parts:
        tag, count = p[-1], 2
        while tag in tags:
            tag, count = f"{p[-1]}_{count}", count + 1
        tags.append(tag)
    return tags


def _mask_stem(path: Path) -> str:
    return _MASK_SUFFIX.sub("", path.stem)


def _images_and_masks(folder: Path, masks_inside: bool) -> tuple[list[Path], list[Path]]:
    """Tell images from masks in one folder: a mask is named so (``a_mask.png``), or is the lossless file beside a
    JPEG of the same stem. ``masks_inside`` False takes name suffixes for part of the image's name."""
    images, masks = [], []
    files = list_images(folder)
    jpegs = {path.with_suffix("") for path in files if path.suffix.lower() in _JPEG}
    stems = {path.with_suffix("") for path in files}
    for path in files:
        named = masks_inside and _MASK_SUFFIX.search(path.stem) and path.with_name(_mask_stem(path)) in stems
        beside = path.suffix.lower() not in _JPEG and path.with_suffix("") in jpegs
        (masks if named or beside else images).append(path)
    return images, masks


def _best_mask(image: Path, candidates: list[Path]) -> Path | None:
    """The mask whose folders have most in common with the image's; None when two are equally near."""
    scored = sorted(((len(set(image.parts[:-1]) & set(m.parts[:-1])), m) for m in candidates), reverse=True)
    return None if len(scored) > 1 and scored[0][0] == scored[1][0] else scored[0][1]


def scan_folders(
    defect_images: list[Path], defect_masks: list[Path], normal_images: list[Path], classes_from_folders: bool
) -> tuple[list[SourceImage], ImportReport]:
    """Find the images and pair them with masks by stem, never by order.

    Raises:
        DefectError: a folder is missing, or holds no image, or there are no normal or no defect images.
    """
    report = ImportReport()
    shared = {folder.resolve() for folder in defect_masks}
    mask_files = {path.resolve(): path for folder in defect_masks for path in list_images(folder)}
    samples: list[SourceImage] = []
    orphans: set[Path] = set()
    found_per_folder = []
    all_folders = defect_images + normal_images
    for folder in all_folders:
        images, masks = _images_and_masks(folder, masks_inside=folder.resolve() in shared)
        if not images:
            raise DefectError(f"{folder}: no images in it; expected files such as .jpg or .png")
        mask_files |= {path.resolve(): path for path in masks}
        found_per_folder.append(images)
    image_files = {path.resolve() for images in found_per_folder for path in images}
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for resolved, path in mask_files.items():
        if resolved not in image_files:
            by_stem[_mask_stem(path)].append(path.absolute())
            orphans.add(path.absolute())

    one_folder = len(defect_images) == 1
    for number, (folder, tag, images) in enumerate(
        zip(all_folders, folder_tags(all_folders), found_per_folder, strict=True)
    ):
        normal = number >= len(defect_images)
        for path in images:
            relative = path.relative_to(folder)
            label = NORMAL if normal else "defect"
            if classes_from_folders and not normal:
                if one_folder and len(relative.parts) == 1:
                    raise DefectError(
                        f"{path}: --classes_from_folders expects one subfolder per class in {folder}, or one "
                        "--defect_images folder per class"
                    )
                label = relative.parts[0] if one_folder else tag
            mask = None
            candidates = by_stem.get(path.stem, [])
            if candidates:
                mask = _best_mask(path.absolute(), candidates)
                if mask is None:
                    names = " and ".join(str(c) for c in candidates[:2])
                    report.remarks.append(f"{path}: two masks fit equally well ({names}); imported without mask")
                orphans.difference_update(candidates if mask is None else [mask])
            samples.append(SourceImage(path, mask, label, tag, f"{tag}/{relative.as_posix()}"))
    if orphans:
        report.remarks["masks without an image of their name; left out"] += [str(path) for path in sorted(orphans)]
    return samples, report


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
        DefectError: nothing usable is left, no group matches, or the output cannot be written.
    """
    if val_split < 0 or test_split < 0 or val_split + test_split >= 1:
        raise DefectError(
            f"--val_split {val_split} and --test_split {test_split}: expected 0 or more, adding up to less than 1"
        )
    groups = _groups(samples, group_csv, report)
    fractions = {"train": 1 - val_split - test_split, "val": val_split, "test": test_split}
    splits = grouped_split([s.source if s.label != NORMAL else NORMAL for s in samples], groups, fractions, seed)
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
        if NORMAL not in kept or len(kept) < 2:
            found = f"{len(writer.rows)} usable images, classes: {', '.join(sorted(kept)) or 'none'}"
            raise DefectError(
                f"{output_dir}: {found}; training needs normal and defect images; {len(report.skipped)} skipped"
            )
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
        report.remarks.append(
            f"{len(unknown)} images are not in {group_csv}, first {unknown[0]}: each is its own group"
        )
    return [group or sample.name for sample, group in zip(samples, found, strict=True)]


def _class_mask(sample: SourceImage, size: tuple[int, int], value: int, report: ImportReport) -> np.ndarray | None:
    if sample.mask is None:
        return None
    try:
        mask, remarks = read_foreign_mask(sample.mask, size)
    except ImageReadError as error:
        report.remarks["mask cannot be used; imported without mask"].append(str(error))
        return None
    for kind, detail in remarks:
        report.remarks[kind].append(f"{sample.mask}: {detail}")
    if sample.label == NORMAL:
        if mask.any():
            report.remarks.append(f"{sample.mask}: {int(mask.sum())} defect pixels on a normal image; mask left out")
        return None  # a normal image has an implied all-zero mask
    return mask * np.uint8(value)
