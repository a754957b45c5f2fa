"""Repairs what is safe to repair in a dataset, into a new one, and lists each change."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from dinov3.data.defect_checks.dataset_checks import orphans, same_pictures
from dinov3.data.defect_checks.facts import SPECK, Facts
from dinov3.data.defect_checks.row_checks import unreadable_mask
from dinov3.data.defect_drawing import IGNORE_COLOR, class_color
from dinov3.data.defect_files import JPEG_SUFFIXES
from dinov3.data.defect_formats.masks import foreground, same_shape
from dinov3.data.defect_images import open_image
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_masks import IGNORE_INDEX, MASK_MODES, defect_pixels
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.defect_errors import DefectError
from dinov3.defect_tables import write_table

CHANGES = "changes.csv"
# Beside values of classes, others are taken for strays among indices if there are at most FEW of them, all below WHITE;
# with several classes any number up to MOST_INDICES. A grey picture has more of them, or noise next to 255.
MOST_INDICES, FEW, WHITE = 32, 4, 224


@dataclass(frozen=True)
class Change:
    """One repair: the file in the old dataset, the check that found it, and what was done."""

    file: str
    check: str
    change: str


def fix_dataset(
    manifest: Manifest, facts: list[Facts], output_dir: Path, *, overwrite: bool = False, command: str = ""
) -> tuple[Manifest, list[Change]]:
    """Write a repaired copy of a dataset, with ``changes.csv`` in it; the dataset itself is only read.

    Masks become palette PNGs of class indices: greys are cut at half, stray values beside classes ignored, masks of
    another size resized to the nearest pixel, specks beside larger regions dropped. A mask that cannot be saved, or
    of whose defect nothing would be left, is skipped, so that its image trains the class alone. Images that cannot be
    read, exact copies within one split and label, and files that no row names are skipped. What needs a
    person's judgement (wrong labels, leaks, empty or inverted masks) stays as it is.

    Args:
        manifest: the dataset.
        facts: what :func:`~dinov3.data.defect_checks.facts.examine` found in it.
        output_dir: the folder to write.
        overwrite: replace a dataset in ``output_dir``.
        command: recorded in the new dataset.

    Raises:
        DefectError: ``output_dir`` is, holds or lies in the dataset, cannot be written, or no image is left.
    """
    old, new = manifest.root.resolve(), output_dir.resolve()
    if old == new or new in old.parents or old in new.parents:
        raise DefectError(f"--output_dir {output_dir}: must lie apart from the dataset {manifest.root} that it repairs")
    skipped = _skipped(facts)
    if len(skipped) == len(facts):
        raise DefectError(f"{manifest.root}: no image can be read, first: {facts[0].name}: {facts[0].image_error}")
    changes: list[Change] = []
    names = _new_names(facts)
    with DatasetWriter(output_dir, overwrite) as writer:
        writer.white_level = manifest.white_level
        for i, f in enumerate(tqdm(facts, desc="fix", unit="image")):
            if i in skipped:
                changes.append(skipped[i])
                continue
            mask = _mask(manifest, f, changes) if f.mask_name else None
            row = {column: str(manifest.columns[column][i]) for column in ("label", "split", "group", "source")}
            writer.add(manifest.root / f.name, names[i], mask, **row)
        for folder, check in (("images", "orphan_image"), ("masks", "orphan_mask")):
            changes += [
                Change(stray.name, check, "not copied, as no row names it") for stray in orphans(manifest, folder)
            ]
        write_table(writer.folder / CHANGES, map(asdict, changes), [field.name for field in fields(Change)])
        seed = json.loads((manifest.root / "dataset.json").read_text(encoding="utf-8")).get("seed", 0)
        fixed = writer.finish(classes=manifest.classes, mask_classes=manifest.mask_classes, seed=seed, command=command)
    return fixed, changes


def _skipped(facts: list[Facts]) -> dict[int, Change]:
    """By row: images that cannot be read, and copies of a picture in one split and of one label.

    Of copies the first with a usable mask is kept, and any whose mask shows something else.
    """
    number = {id(f): i for i, f in enumerate(facts)}
    found = {
        i: Change(f.name, "unreadable_image", f"skipped: {f.image_error}")
        for i, f in enumerate(facts)
        if f.image is None
    }
    for copies in same_pictures(facts):
        alike: dict[tuple[str, str], list[Facts]] = defaultdict(list)
        for f in copies:
            alike[f.split, f.label].append(f)
        for members in alike.values():
            kept = next((f for f in members if f.mask), members[0])
            for f in members:
                if f is not kept and (not f.mask or f.mask.digest == kept.mask.digest):
                    change = f"skipped: the same picture as {kept.name}, in the same split and of the same label"
                    found[number[id(f)]] = Change(f.name, "duplicate_image", change)
    return found


def _new_names(facts: list[Facts]) -> list[str]:
    """Where each image goes below ``images/``; the file of several rows is copied for each, numbered."""
    names: list[str] = []
    taken: set[str] = set()
    for f in facts:
        path = PurePosixPath(f.name)
        path = path.relative_to("images") if path.is_relative_to("images") else path
        name, count = path.as_posix(), 2
        while name in taken:
            name, count = path.with_stem(f"{path.stem}_{count}").as_posix(), count + 1
        taken.add(name)
        names.append(name)
    return names


def _mask(manifest: Manifest, f: Facts, changes: list[Change]) -> np.ndarray | None:
    """(H, W) uint8 class indices of a row's mask, repaired; None if it must be skipped."""

    def note(check: str, change: str) -> None:
        changes.append(Change(f.mask_name, check, change))

    if f.mask is None:
        note("unreadable_mask", f"skipped: {f.mask_error}")
        return None
    found, wanted = ("{}x{}".format(*size) for size in (f.mask.size, f.image.size))
    if not same_shape(f.mask.size, f.image.size):
        note("size_mismatch", f"skipped: {found} has another shape than its image, {wanted}")
        return None
    repaired = _class_indices(manifest, f)
    mask = repaired.mask
    if repaired.change:
        note(repaired.check, repaired.change)
    if mask is None:
        return None
    if f.mask.size != f.image.size:
        resized = np.asarray(Image.fromarray(mask).resize(f.image.size, Image.Resampling.NEAREST))
        if (defect_pixels(mask).any() and not defect_pixels(resized).any()) or (mask.any() and not resized.any()):
            note("size_mismatch", f"skipped: resized from {found} to {wanted}, nothing of its defect would be left")
            return None
        mask = resized
        note("size_mismatch", f"resized from {found} to {wanted}, nearest pixel")
    mask, dropped = _without_specks(mask)
    if dropped:
        note("specks", f"dropped regions of at most {SPECK} pixels: {dropped}")
    return mask


class _Repaired(NamedTuple):
    """A mask as class indices, or None; which check found it wrong, and what was done: "" if it was right."""

    mask: np.ndarray | None
    check: str = ""
    change: str = ""


def _class_indices(manifest: Manifest, f: Facts) -> _Repaired:
    path, classes = manifest.root / f.mask_name, manifest.mask_classes
    image = open_image(path)
    reading = "classes" if f.mask.reading == "ignored" and f.verdict == "normal" else f.mask.reading
    if image.mode in MASK_MODES:
        indices = np.array(image, dtype=np.uint8)
        if reading == "classes":
            return _Repaired(indices)
        if _are_indices(image, indices, len(classes), path.suffix.lower() in JPEG_SUFFIXES):
            indices[indices > len(classes)] = IGNORE_INDEX
            return _Repaired(
                indices, "mask_values", f"values of no class ({f.mask.values}) set to {IGNORE_INDEX}, ignored"
            )
    elif (indices := _by_colors(image, len(classes))) is not None:
        return _Repaired(
            indices, "unreadable_mask", f"was of mode {image.mode}, in the colours of the classes; made a palette"
        )
    check = "unreadable_mask" if unreadable_mask(f) else "mask_values" if f.mask.values else "ignored_mask"
    value = _class_value(classes, f)
    if value is None:
        return _Repaired(None, check, f"skipped: it does not tell which of {', '.join(classes)} its defect is")
    if f.mask.reading == "ignored":
        defect = (indices == IGNORE_INDEX).astype(np.uint8)
    else:
        defect = (foreground(image, path.suffix.lower() in JPEG_SUFFIXES, []) == 1).astype(np.uint8)
    what = {"unreadable_mask": f"mode {f.mask.mode}", "mask_values": f"values {f.mask.values}"}.get(check, "0 and 255")
    pixels = np.asarray(image)
    if not defect.any() and (pixels != pixels[0, 0]).any():
        return _Repaired(None, check, f"skipped: was of {what}, too faint to tell what of it is a defect")
    return _Repaired(defect * np.uint8(value), check, f"was of {what}; made a mask of 0 and {value}")


def _are_indices(image: Image.Image, indices: np.ndarray, classes: int, lossy: bool) -> bool:
    """Whether a mask, in which some values are no class, holds indices of classes all the same, and no picture."""
    counts = np.bincount(indices.ravel(), minlength=IGNORE_INDEX + 1)
    known, strange = counts[1 : classes + 1], counts[classes + 1 : IGNORE_INDEX]
    if not known.any() or not strange.any():
        return False
    highest = classes + 1 + np.flatnonzero(strange)[-1]
    if classes > 1 and highest <= MOST_INDICES:
        return True
    if lossy or np.count_nonzero(strange) > FEW:
        return False
    if image.mode == "P":
        rgb = np.asarray(image.convert("RGB"))
        if (rgb.max(axis=2) > rgb.min(axis=2)).any():
            return True  # a picture in colours would hardly have so few
        if classes == 1 and (rgb[..., 0] != indices).any():
            return False  # greys in an order of their own: the numbers mean nothing
    if highest < 128 and not counts[IGNORE_INDEX]:
        return True
    # Soft edges and noise of a bright picture make values of classes as well, but no areas of one.
    flat = cv2.erode(indices, np.ones((3, 3))) == cv2.dilate(indices, np.ones((3, 3)))
    return bool(highest < WHITE and (flat & (indices > 0) & (indices <= classes)).any())


def _by_colors(image: Image.Image, classes: int) -> np.ndarray | None:
    """(H, W) uint8 of a mask that a paint program saved in the colours of :func:`write_mask`; None if it is not one."""
    known = [(i, class_color(i)) for i in range(classes + 1)] + [(IGNORE_INDEX, IGNORE_COLOR)]
    if len({color for _, color in known}) < len(known):
        return None  # more classes than colours
    rgb = np.asarray(image.convert("RGB"))
    indices = np.zeros(rgb.shape[:2], np.uint8)
    found = np.zeros(rgb.shape[:2], bool)
    for index, color in known:
        here = (rgb == np.array(color, np.uint8)).all(axis=2)
        indices[here] = index
        found |= here
    return indices if found.all() and indices[indices <= classes].any() else None


def _class_value(classes: list[str], f: Facts) -> int | None:
    """The mask value of a row's defect: by its label, or the only one; None if that leaves it open."""
    if f.label in classes:
        return classes.index(f.label) + 1
    if len(classes) == 1:
        return 1
    return IGNORE_INDEX if f.verdict == "unknown" else None


def _without_specks(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The mask without regions of a few pixels, and their number; they stay if there is no larger one."""
    defect = defect_pixels(mask).astype(np.uint8)
    _, regions, stats, _ = cv2.connectedComponentsWithStats(defect, connectivity=8)
    speck = stats[:, cv2.CC_STAT_AREA] <= SPECK
    speck[0] = False  # the background
    if speck[1:].all() or not speck.any():
        return mask, 0
    return np.where(speck[regions], np.uint8(0), mask), int(speck.sum())
