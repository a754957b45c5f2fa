"""What the tests of the checks share: a sound dataset folder, and ways to spoil it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import square_image
from helpers.organizing import content

from dinov3.data.defect_checks.row_checks import check_dataset
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_masks import IGNORE_INDEX, write_mask
from dinov3.data.defect_prepare.writer import DatasetWriter

Changes = list[tuple[str, str]]
Fix = Callable[..., tuple[Manifest, Changes, dict[str, int]]]


def write_dozen(folder: Path) -> Path:
    """Twelve images, half defective, two classes in each of train and val; nothing wrong."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        for i in range(12):
            image, mask = square_image(rng, defect=i % 2 == 1, size=48)
            mask[0, 0] = IGNORE_INDEX if i % 2 else 0
            label, split = ("normal", "defect")[i % 2], ("train", "val")[i // 8]
            target = mask if i % 2 else None
            writer.add(image, f"{i:02}.png", target, label=label, split=split, group=str(i), source="made")
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="test")
    return folder


def edit_rows(dataset: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    path = dataset / "manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0])
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)


def write(dataset: Path, name: str, mask: np.ndarray) -> None:
    write_mask(dataset / "masks" / name, mask.astype(np.uint8))


def square() -> np.ndarray:
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 10:30] = 1
    return mask


def give_three_classes(dataset: Path) -> None:
    """Classes normal, dent, hole, crack; the defects of the rows are dents."""
    info = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    classes = ["dent", "hole", "crack"]
    info |= {"classes": ["normal", *classes], "mask_classes": classes}
    (dataset / "dataset.json").write_text(json.dumps(info), encoding="utf-8")
    edit_rows(dataset, lambda rows: [row.update(label="dent") for row in rows if row["label"] == "defect"])


def fixer(dataset: Path, script: Callable[..., tuple[int, str, str]], folder: Path) -> Fix:
    """A function that runs check --fix into folder/fixed: -> the new dataset, its changes as (file, check), and what
    the checks still find in it, with counts.

    The old dataset must be as before.
    """

    def run(status: int = 0) -> tuple[Manifest, Changes, dict[str, int]]:
        before = content(dataset)
        found, out, err = script("prepare_defect_data", "check", dataset, "--fix", "--output_dir", folder / "fixed")
        assert found == status, err
        assert content(dataset) == before
        with (folder / "fixed/changes.csv").open(newline="", encoding="utf-8-sig") as file:
            changes = list(csv.DictReader(file))
        for change in changes:
            assert f"fixed: {change['check']}: {change['file']}: {change['change']}" in out
        fixed = read_manifest(folder / "fixed")
        left = {issue.check: issue.count for issue in check_dataset(fixed)}
        return fixed, [(change["file"], change["check"]) for change in changes], left

    return run
