"""Folds of a dataset for cross-validation: every image is tested once, and no part is on two sides of a fold."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from dinov3.data.defect_manifest import COLUMNS, Manifest
from dinov3.data.defect_prepare.splits import grouped_split
from dinov3.defect_errors import DefectError


def assign_folds(strata: Sequence[str], groups: Sequence[str], count: int, seed: int) -> list[int]:
    """A fold for every image, stratified by type, with each group in one fold.

    Raises:
        DefectError: a type has too few groups to be in every fold.
    """
    names = {f"{number}": 1 / count for number in range(count)}
    folds = [int(name) for name in grouped_split(strata, groups, names, seed)]
    for stratum in sorted(set(strata)):
        there = {fold for fold, name in zip(folds, strata, strict=True) if name == stratum}
        if len(there) < count:
            raise DefectError(f"{stratum}: only in folds {sorted(there)} of {count}; use fewer --folds")
    return folds


def write_fold(
    manifest: Manifest, folder: Path, strata: list[str], groups: list[str], folds: list[int], k: int
) -> None:
    """A dataset folder that tests on fold ``k``, with links to the images and masks of ``manifest``: a fifth of the
    parts of the other folds is for validation."""
    rest = [row for row in range(len(manifest)) if folds[row] != k]
    shares = {"train": 0.8, "val": 0.2}
    inner = grouped_split([strata[r] for r in rest], [groups[r] for r in rest], shares, seed=k)
    split = dict(zip(rest, inner, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks", "dataset.json"):
        if not (folder / name).exists():
            (folder / name).symlink_to((manifest.root / name).resolve())
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in range(len(manifest)):
            values = {name: str(manifest.columns[name][row]) for name in COLUMNS}
            writer.writerow(values | {"group": groups[row], "split": split.get(row, "test")})
