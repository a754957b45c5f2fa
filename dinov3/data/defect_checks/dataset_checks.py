"""Checks of the dataset as a whole: leaks, copies, conflicts, stray files, images unlike the rest, rare classes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from dinov3.data.defect_checks.facts import PATCH, Facts
from dinov3.data.defect_files import IMAGE_SUFFIXES, one_spelling
from dinov3.data.defect_manifest import SPLITS, Manifest

Finding = tuple[str, str]  # a file (or class), and what is the matter with it

TILE_SIZES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)  # the last is four patches: less shows no surroundings
FAR = 6  # standard deviations from the median, of which chance leaves two in a thousand million
MOST = 0.8  # if so many images agree in size, the others are odd
RARE = 10  # a class with so many times fewer images than the largest is learnt badly


def same_pictures(facts: list[Facts]) -> list[list[Facts]]:
    """Sets of two or more rows whose images decode to the same pixels."""
    sets: dict[bytes, list[Facts]] = defaultdict(list)
    for f in facts:
        if f.image:
            sets[f.image.digest].append(f)
    return [copies for copies in sets.values() if len(copies) > 1]


def leaks(manifest: Manifest, facts: list[Facts]) -> tuple[list[Finding], int]:
    """Groups (physical parts) and single pictures with images in more than one split: findings, number of leaks."""
    groups: dict[str, list[Facts]] = defaultdict(list)
    for part, f in zip(manifest.parts.tolist(), facts, strict=True):
        groups[part].append(f)
    leaking = {f"group {group}": members for group, members in groups.items() if _split_names(members)[1:]}
    told = {f.name for members in leaking.values() for f in members}
    for copies in same_pictures(facts):
        if _split_names(copies)[1:] and any(f.name not in told for f in copies):
            leaking[f"the picture of {copies[0].name}"] = copies
    findings = []
    for what, members in leaking.items():
        firsts = {f.split: f for f in reversed(members)}  # one file of each split shows the leak
        findings += [(firsts[s].name, f"{what} is in {' and '.join(sorted(firsts))}") for s in SPLITS if s in firsts]
    return findings, len(leaking)


def _split_names(members: list[Facts]) -> list[str]:
    return sorted({f.split for f in members})


def label_conflicts(facts: list[Facts]) -> tuple[list[Finding], int]:
    """Pictures under more than one label: findings, number of pictures."""
    judged = [[f for f in copies if f.verdict != "unknown"] for copies in same_pictures(facts)]
    sets = [copies for copies in judged if len({f.label for f in copies}) > 1]
    findings = []
    for copies in sets:
        firsts = {f.label: f for f in reversed(copies)}
        labels = " and ".join(sorted(firsts))
        findings += [(f.name, f"the same picture is {labels}") for f in copies if firsts[f.label] is f]
    return findings, len(sets)


def duplicates(facts: list[Facts]) -> list[Finding]:
    """Images that show the same pixels as an earlier one."""
    return [
        (copy.name, f"the same picture as {copies[0].name}") for copies in same_pictures(facts) for copy in copies[1:]
    ]


def orphans(manifest: Manifest, folder: str) -> list[Finding]:
    """Image files in ``images/`` or ``masks/`` that no row names."""
    columns = manifest.columns
    known = {_key(name) for column in ("image", "mask") for name in columns[column].tolist() if name}
    found = []
    for place, folders, files in os.walk(manifest.root / folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in IMAGE_SUFFIXES:
                name = (Path(place) / file).relative_to(manifest.root).as_posix()
                if _key(name) not in known:
                    found.append((name, "in no row of manifest.csv"))
    return sorted(found)


def _key(name: str) -> str:
    """One spelling per file."""
    return one_spelling(str(PurePosixPath(name)))


def odd_images(facts: list[Facts]) -> dict[str, list[Finding]]:
    """Images unlike the rest in size, aspect ratio, channels, bit depth or brightness, by name of the check."""
    readable = [f for f in facts if f.image]
    if not readable:
        return {}
    images = [f.image for f in readable]
    sizes = [f"{image.size[0]}x{image.size[1]}" for image in images]
    width, height = np.array([image.size for image in images], dtype=float).T
    brightness = np.array([image.brightness for image in images])
    common, count = Counter(sizes).most_common(1)[0]
    if count > MOST * len(sizes):
        odd_size = np.array([size != common for size in sizes])
    else:
        common = f"about {np.median(width):.0f}x{np.median(height):.0f}"
        odd_size = outliers(np.log(width * height), np.log(4))
    found = {
        "odd_size": (odd_size, sizes, common),
        "odd_aspect": (
            outliers(np.log(width / height), np.log(1.5)),
            [f"{w / h:.2f} times as wide as high" for w, h in zip(width, height, strict=True)],
            f"about {np.median(width / height):.2f}",
        ),
        "odd_channels": _minority([image.channels for image in images]),
        "odd_bit_depth": _minority([image.depth for image in images]),
        "odd_brightness": (
            outliers(brightness, 40),
            [f"mean brightness {value:.0f}" for value in brightness],
            f"about {np.median(brightness):.0f}",
        ),
    }
    return {
        name: [(readable[i].name, f"{values[i]}; most are {usual}") for i in np.flatnonzero(odd)]
        for name, (odd, values, usual) in found.items()
    }


def outliers(values: np.ndarray, floor: float) -> np.ndarray:
    """(N,) booleans: what lies far from the median, by the median absolute deviation, and at least by ``floor``."""
    deviation = np.abs(values - np.median(values))
    spread = 1.4826 * np.median(deviation)  # the standard deviation, if the values are normally distributed
    return deviation > max(FAR * spread, floor)


def _minority(kinds: list[str]) -> tuple[np.ndarray, list[str], str]:
    usual = Counter(kinds).most_common(1)[0][0]
    return np.array([kind != usual for kind in kinds]), kinds, usual


def small_defects(facts: list[Facts], image_size: int) -> tuple[list[Finding], str]:
    """Masks with regions smaller than a patch after resizing, and which tiles would keep them."""
    sides: Counter[int] = Counter()
    findings, regions, vanishing = [], 0, 0
    for f in facts:
        if f.mask and f.verdict != "normal":
            regions += f.mask.regions
            vanishing += f.mask.vanishing
            sides.update(f.mask.small)
            if f.mask.small:
                few = f"{f.mask.small.total()} of {f.mask.regions} regions are too small"
                findings.append((f.name, f"{few}, the smallest {min(f.mask.small)} pixels long"))
    if not findings:
        return [], ""
    total = sides.total()
    kept = {tile: sum(n for side, n in sides.items() if side * image_size >= PATCH * tile) for tile in TILE_SIZES}
    tile = next((t for share in (1, 0.95) for t in TILE_SIZES if kept[t] >= share * total), TILE_SIZES[-1])
    return findings, (
        f"{total} of {regions} defect regions are smaller than a patch of {PATCH} pixels in images resized to "
        f"{image_size}x{image_size}; thinner than a pixel, so they may vanish: {vanishing}. Tiles of {tile} pixels "
        f"keep {'all' if kept[tile] == total else kept[tile]} of them at a patch or more."
    )


def imbalance(manifest: Manifest) -> list[Finding]:
    """Classes with far fewer training images than the largest."""
    counts = {name: n for name, n in manifest.counts()["train"].items() if n}
    largest = max(counts, key=counts.__getitem__, default="")
    return [
        (name, f"{n} training images; {largest} has {counts[largest]}")
        for name, n in counts.items()
        if n * RARE < counts[largest]
    ]


def class_gaps(manifest: Manifest) -> Iterable[Finding]:
    """Classes without any image in a split that has images."""
    counts = manifest.counts()
    return [
        (f"{split}: {name}", "no image")
        for split in SPLITS
        if sum(counts[split].values())
        for name, n in counts[split].items()
        if not n
    ]
