"""Checks of the dataset as a whole: leaks, copies, conflicts, stray files, images unlike the rest, rare classes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dinov3.data.defect_checks.explanations import Text
from dinov3.data.defect_checks.facts import PATCH, Facts
from dinov3.data.defect_files import IMAGE_SUFFIXES, one_spelling
from dinov3.data.defect_manifest import SPLITS, Manifest
from dinov3.data.defect_tiles import SHORTEST_SIDE
from dinov3.defect_size import ImageSize, height_width

TILE_SIZES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)  # the last is four patches: less shows no surroundings
FAR = 6  # standard deviations from the median, of which chance leaves two in a thousand million
MOST = 0.8  # if so many images agree in size, the others are odd
KINDS = {  # of ImageFacts, in Chinese
    "grey": "灰度",
    "colour": "彩色",
    "grey with transparency": "带透明通道的灰度",
    "colour with transparency": "带透明通道的彩色",
    "1 bit": "1 位",
    "8 bit": "8 位",
    "16 bit or more": "16 位或更高",
    "float": "浮点",
}
RARE = 10  # a class with so many times fewer images than the largest is learnt badly


class Finding(NamedTuple):
    """What is the matter with a file, or with a class."""

    name: str
    note: Text


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
    leaking: dict[Text, list[Facts]] = {
        (f"group {group}", f"分组 {group}"): members for group, members in groups.items() if _split_names(members)[1:]
    }
    told = {f.name for members in leaking.values() for f in members}
    for copies in same_pictures(facts):
        if _split_names(copies)[1:] and any(f.name not in told for f in copies):
            leaking[f"the picture of {copies[0].name}", f"{copies[0].name} 的图片"] = copies
    findings = []
    for (english, chinese), members in leaking.items():
        firsts = {f.split: f for f in reversed(members)}  # one file of each split shows the leak
        splits = sorted(firsts)
        note = f"{english} is in {' and '.join(splits)}", f"{chinese}同时出现在 {'、'.join(splits)}"
        findings += [Finding(firsts[s].name, note) for s in SPLITS if s in firsts]
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
        labels = sorted(firsts)
        note = f"the same picture is {' and '.join(labels)}", f"同一张图片的标签为 {'、'.join(labels)}"
        findings += [Finding(f.name, note) for f in copies if firsts[f.label] is f]
    return findings, len(sets)


def duplicates(facts: list[Facts]) -> list[Finding]:
    """Images that show the same pixels as an earlier one."""
    return [
        Finding(copy.name, (f"the same picture as {copies[0].name}", f"与 {copies[0].name} 相同"))
        for copies in same_pictures(facts)
        for copy in copies[1:]
    ]


def unused_range(manifest: Manifest, facts: list[Facts]) -> list[Finding]:
    """16-bit images, if none uses more than a quarter of the range by which they are read, or one goes beyond it."""
    deep = [(f, f.image.highest) for f in facts if f.image is not None and f.image.highest is not None]
    most, white = max((highest for _, highest in deep), default=0), manifest.white_level
    if not deep or white // 4 < most <= white:
        return []
    return [
        Finding(f.name, (f"values up to {highest}; {white} is white", f"像素值最大为 {highest}，白色为 {white}"))
        for f, highest in deep
        if highest > white or most <= white
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
                    found.append(Finding(name, ("in no row of manifest.csv", "manifest.csv 中没有对应的行")))
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
    usual = (common, common)
    odd_size = np.array([size != common for size in sizes])
    if count <= MOST * len(sizes):
        usual = _about(f"{np.median(width):.0f}x{np.median(height):.0f}")
        odd_size = outliers(np.log(width * height), np.log(4))
    ratios = width / height
    found = {
        "odd_size": (odd_size, [(size, size) for size in sizes], usual),
        "odd_aspect": (
            outliers(np.log(ratios), np.log(1.5)),
            [(f"{ratio:.2f} times as wide as high", f"宽为高的 {ratio:.2f} 倍") for ratio in ratios],
            _about(f"{np.median(ratios):.2f}"),
        ),
        "odd_channels": _minority([image.channels for image in images]),
        "odd_bit_depth": _minority([image.depth for image in images]),
        "odd_brightness": (
            outliers(brightness, 40),
            [(f"mean brightness {value:.0f}", f"平均亮度 {value:.0f}") for value in brightness],
            _about(f"{np.median(brightness):.0f}"),
        ),
    }
    return {
        name: [
            Finding(readable[i].name, (f"{values[i][0]}; most are {usual[0]}", f"{values[i][1]}；多数为{usual[1]}"))
            for i in np.flatnonzero(odd)
        ]
        for name, (odd, values, usual) in found.items()
    }


def _about(value: str) -> Text:
    return f"about {value}", f"约 {value}"


def outliers(values: np.ndarray, floor: float) -> np.ndarray:
    """(N,) booleans: what lies far from the median, by the median absolute deviation, and at least by ``floor``."""
    deviation = np.abs(values - np.median(values))
    spread = 1.4826 * np.median(deviation)  # the standard deviation, if the values are normally distributed
    return deviation > max(FAR * spread, floor)


def _minority(kinds: list[str]) -> tuple[np.ndarray, list[Text], Text]:
    usual = Counter(kinds).most_common(1)[0][0]
    named = [(kind, KINDS.get(kind, kind)) for kind in (*kinds, usual)]
    return np.array([kind != usual for kind in kinds]), named[:-1], named[-1]


def small_defects(facts: list[Facts], image_size: ImageSize) -> tuple[list[Finding], Text | None]:
    """Masks with regions smaller than a patch after resizing, and which tiles would keep them."""
    sides: Counter[int] = Counter()
    findings, regions, vanishing = [], 0, 0
    for f in facts:
        if f.mask and f.verdict != "normal":
            regions += f.mask.regions
            vanishing += f.mask.vanishing
            sides.update(f.mask.small)
            if f.mask.small:
                few, all_of_them, least = f.mask.small.total(), f.mask.regions, min(f.mask.small)
                note = (
                    f"{few} of {all_of_them} regions are too small, the smallest {least} pixels long",
                    f"{all_of_them} 个区域中有 {few} 个过小，最小的长 {least} 像素",
                )
                findings.append(Finding(f.name, note))
    if not findings:
        return [], None
    total, resized = sides.total(), "x".join(map(str, height_width(image_size)))
    shorter, longer = sorted(height_width(image_size))  # the tiles' shape, too
    tiles = [tile for tile in TILE_SIZES if tile * shorter >= SHORTEST_SIDE * longer] or TILE_SIZES[:1]
    kept = {tile: sum(n for side, n in sides.items() if side * longer >= PATCH * tile) for tile in tiles}
    tile = next((t for share in (1, 0.95) for t in tiles if kept[t] >= share * total), tiles[-1])
    english = (
        f"{total} of {regions} defect regions are smaller than a patch of {PATCH} pixels in images resized to "
        f"{resized}; thinner than a pixel, so they may vanish: {vanishing}. Tiles of {tile} pixels "
        f"keep {'all' if kept[tile] == total else kept[tile]} of them at a patch or more."
    )
    chinese = (
        f"图像缩放到 {resized} 后，{regions} 个缺陷区域中有 {total} 个小于一个 {PATCH} 像素的图块；"
        f"其中 {vanishing} 个不足一个像素宽，可能消失。按 {tile} 像素切片，"
        f"可使{'它们全部' if kept[tile] == total else f'其中 {kept[tile]} 个'}不小于一个图块。"
    )
    return findings, (english, chinese)


def imbalance(manifest: Manifest) -> list[Finding]:
    """Classes with far fewer training images than the largest."""
    counts = {name: n for name, n in manifest.counts()["train"].items() if n}
    largest = max(counts, key=counts.__getitem__, default="")
    return [
        Finding(
            name,
            (
                f"{n} training images; {largest} has {counts[largest]}",
                f"训练图像 {n} 张；{largest} 有 {counts[largest]} 张",
            ),
        )
        for name, n in counts.items()
        if n * RARE < counts[largest]
    ]


def class_gaps(manifest: Manifest) -> Iterable[Finding]:
    """Classes without any image in a split that has images."""
    counts = manifest.counts()
    return [
        Finding(f"{split}: {name}", ("no image", "没有图像"))
        for split in SPLITS
        if sum(counts[split].values())
        for name, n in counts[split].items()
        if not n
    ]
