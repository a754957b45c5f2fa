"""Plain folders of images and masks, as people keep them: which files are there, and which mask belongs to which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dinov3.data.defect_files import list_images, one_spelling
from dinov3.data.defect_formats.base import MASK_WITHOUT_IMAGE, NORMAL, ImportOptions, ImportReport, SourceImage
from dinov3.data.defect_formats.detect import wrong_layout
from dinov3.data.defect_formats.pairing import pair_masks, tell_masks
from dinov3.data.defect_formats.parsing import SPLIT_NAMES, kept_splits
from dinov3.data.defect_manifest import UNKNOWN
from dinov3.defect_errors import DefectError


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


def _find_files(
    folders: list[Path], mask_folders: Sequence[Path]
) -> tuple[list[list[Path]], list[list[Path]], list[Path]]:
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
            if any(place.is_relative_to(other) for other in places) and tell_masks(apart[place])[1]:
                # These images would all be taken for masks, and be lost.
                raise DefectError(
                    f"{folder}: images beside their masks, inside of another folder of images; leave it out of "
                    "--defect_masks: masks beside their images are found"
                )
    return images, masks, [mask for files in apart.values() for mask in files]


def _expect_masks_among(folder: Path, images: list[Path], masks: list[Path]) -> None:
    """A folder given for images and for masks must hold both, and none that could be either."""
    expected = "in one folder, expected mask a.png beside image a.jpg, or a_mask.png beside a.png"
    first: dict[str, Path] = {}
    for image in images:
        other = first.setdefault(one_spelling(str(image.with_suffix(""))), image)
        if other != image:
            raise DefectError(f"{other} and {image.name}: which is the image, which the mask? {expected}")
    if not masks:
        raise DefectError(f"{folder}: no masks among its images; {expected}")


def scan_folders(
    defect_images: Sequence[Path],
    defect_masks: Sequence[Path],
    normal_images: Sequence[Path],
    report: ImportReport,
    *,
    unlabeled_images: Sequence[Path] = (),
    classes_from_folders: bool = False,
) -> list[SourceImage]:
    """Find the images and pair them with masks.

    A folder may lie inside another: its files are then its own alone. Images and masks may share a folder.

    Args:
        defect_images, defect_masks, normal_images: folders; the masks' may be empty.
        report: collects what was skipped, and what could not be paired.
        unlabeled_images: folders of images that have a mask but no verdict; without a mask they are skipped.

    Raises:
        DefectError: a folder is missing, given twice, or holds no image; no mask fits any image; a class is not
            told by a folder.
    """
    folders = [*defect_images, *unlabeled_images, *normal_images]
    images, masks, masks_apart = _find_files(folders, defect_masks)
    first_unlabeled, split = len(defect_images), len(defect_images) + len(unlabeled_images)
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
    report.remark(MASK_WITHOUT_IMAGE, sorted(orphans))

    samples: list[SourceImage] = []
    for number, (folder, tag) in enumerate(zip(folders, folder_tags(folders), strict=True)):
        for path in images[number]:
            relative = path.relative_to(folder)
            label = NORMAL if number >= split else UNKNOWN if number >= first_unlabeled else "defect"
            if label == UNKNOWN and path not in pairs:
                report.skipped.append(f"{path}: neither verdict nor mask; nothing to learn from it")
                continue
            if classes_from_folders and label == "defect":
                label = _class_of(relative, folder) if first_unlabeled == 1 else tag
                if label == NORMAL:
                    raise DefectError(f"{path}: a defect class cannot be called {NORMAL}; give it as --normal_images")
            own = (pairs[path],) if path in pairs else ()
            samples.append(SourceImage(path, f"{tag}/{relative.as_posix()}", tag, label, own))
    return samples


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


# --- the folders format of import

GOOD_FOLDERS = ("good", "normal", "ok")  # what folders of good parts are called
MASK_FOLDERS = ("masks", "mask", "ground_truth", "gt")


def read_folders(source: Path, options: ImportOptions, report: ImportReport) -> list[SourceImage]:
    """One folder per class: ``good`` (or ``normal``, ``ok``, or any of ``options.normal``) and one per type of defect,
    which is the label.

    Masks lie beside the images (:func:`tell_masks`) or in folders called ``masks``, anywhere below ``source``. All
    may be in folders ``train``, ``val`` and ``test``, which are then the splits. With ``options.images``, the folders
    of classes are there and ``source`` holds the masks.

    Raises:
        DefectError: no folder of good images, none of defects, or no mask fits any image.
    """
    root = options.images or source
    if not root.is_dir():
        raise wrong_layout(root, "folders", "a folder of folders")
    splits = [folder for folder in subfolders(root) if folder.name.lower() in SPLIT_NAMES]
    kinds = [folder for parent in splits or [root] for folder in subfolders(parent)]
    kinds = [folder for folder in kinds if folder.name.lower() not in MASK_FOLDERS and list_images(folder)]
    normal = [folder for folder in kinds if folder.name.lower() in GOOD_FOLDERS or folder.name in options.normal]
    defects = [folder for folder in kinds if folder not in normal]
    if not normal or not defects:
        good = "good, normal, ok or what --normal names"
        expected = f"a folder {good}, and one per type of defect; all may be in train/, val/ and test/"
        raise wrong_layout(root, "folders", expected)
    masks = [path for path in sorted(source.rglob("*")) if path.name.lower() in MASK_FOLDERS and path.is_dir()]
    masks = [folder for folder in (masks if root == source else [source]) if list_images(folder)]
    samples = scan_folders(defects, masks, normal, report)
    inside = {path for folder in (*kinds, *masks) for path in list_images(folder)}
    report.skipped += [f"{path}: in no folder of a class" for path in list_images(root) if path not in inside]
    return kept_splits([_placed(sample, root, bool(splits)) for sample in samples], report)


def subfolders(folder: Path) -> list[Path]:
    """The folders right in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _placed(sample: SourceImage, root: Path, split: bool) -> SourceImage:
    """The image named by its place, its folders being its split and its class."""
    place = sample.image.relative_to(root)
    kind = place.parts[int(split)]
    return replace(
        sample,
        name=place.as_posix(),
        source=kind,
        label=NORMAL if kind.lower() in GOOD_FOLDERS else kind,
        split=SPLIT_NAMES[place.parts[0].lower()] if split else None,
    )


def folder_name(folder: Path) -> str:
    """What a folder is called where it is given, be it a link or ``.``."""
    return Path(os.path.abspath(folder)).name or "images"
