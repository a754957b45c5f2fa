"""Which images ``accuracy.py`` trains and tests on: the dataset, what stays together in it, and what is excluded."""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from weak_labels import masked_rows

from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_prepare.writer import DatasetWriter
from dinov3.data.defect_synthesis.demo import write_demo
from dinov3.defect_errors import DefectError

ROOT = Path(__file__).resolve().parents[1]
TILE_TYPES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")


def open_data(args: argparse.Namespace) -> Manifest:
    """The dataset, made first if need be."""
    if args.data not in NAMED:
        manifest = read_manifest(args.data)
        if len(manifest.classes) != 2:
            raise DefectError(
                f"--data {args.data}: has the classes {', '.join(manifest.classes)}; expected good and bad"
            )
        return manifest.subset(manifest.labels >= 0)  # what nobody judged can't be tested
    folder = args.work_dir / args.data
    if not (folder / "dataset.json").is_file():
        NAMED[args.data](folder)
    return read_manifest(folder)


def organize_tiles(folder: Path) -> None:
    """The magnetic tiles as a dataset, with the groups that organising finds beside the listed ones."""
    default = Path(os.environ.get("DEFECT_DATA_DIR", "")) / "magnetic_tile"
    source = Path(os.environ.get("MAGNETIC_TILE_DIR", default))
    if not (source / "MT_Free").is_dir():
        raise DefectError("MAGNETIC_TILE_DIR: expected the folder with MT_Free, MT_Break, ...; set this variable")
    types = [str(source / f"MT_{name}" / "Imgs") for name in TILE_TYPES]
    organize(folder, source / "MT_Free" / "Imgs", types, types, source)


def find_source(name: str) -> Path:
    """The folder of a set in DEFECT_DATA_DIR."""
    source = Path(os.environ.get("DEFECT_DATA_DIR", "")) / name
    if not (source / "defect").is_dir():
        raise DefectError(f"DEFECT_DATA_DIR: expected the folder that holds {name}; set this variable")
    return source


def organize_listed(folder: Path) -> None:
    """Solar cells or circuit boards as a dataset, with the listed groups: they look alike, so likeness says nothing."""
    source = find_source(folder.name)
    organize(folder, source / "normal", [str(source / "defect")], [str(source / "masks")], source, "--no-group_similar")


def write_steel_strip(folder: Path) -> None:
    """The steel strip as a dataset: three types of defect and no good image, so that it measures masks alone."""
    source = find_source("steel_strip")
    with (source / "groups.csv").open(newline="", encoding="utf-8") as file:
        groups = {row["image"]: row["group"] for row in csv.DictReader(file)}
    with DatasetWriter(folder) as writer:
        for name, group in groups.items():
            mask = np.asarray(Image.open(source / "masks" / f"{Path(name).stem}.png").convert("L")) >= 128
            options = {"label": "defect", "split": "train", "group": group, "source": Path(name).parent.name}
            writer.add(source / name, name, mask.astype(np.uint8), **options)
        writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command="accuracy.py")


def organize(folder: Path, normal: Path, images: list[str], masks: list[str], source: Path, *more: str) -> None:
    """Run the script that makes a dataset."""
    sys.path.insert(0, str(ROOT / "examples"))
    from prepare_defect_data import main as prepare

    flags = ["--normal_images", str(normal), "--group_csv", str(source / "groups.csv"), *more]
    prepare(["organize", "--defect_images", *images, "--defect_masks", *masks, *flags, "--output_dir", str(folder)])


# Datasets that are made when they are first asked for.
NAMED = {
    "tiles": organize_tiles,
    "solar_cells": organize_listed,
    "circuit_boards": organize_listed,
    "steel_strip": write_steel_strip,
    "demo": lambda folder: write_demo(folder, 480, seed=0),
}


def strata_and_groups(args: argparse.Namespace, manifest: Manifest) -> tuple[list[str], list[str]]:
    """What to stratify by, and what stays together. The demo's parts are all different: there a surface counts as one
    part, so that test surfaces never occur in training."""
    columns = {name: values.tolist() for name, values in manifest.columns.items()}
    if args.random_split:
        return columns["source"], columns["image"]
    if args.data == "demo":
        return ["surface"] * len(manifest), [name.split("/")[1] for name in columns["image"]]
    return columns["source"], columns["group"]


def keep_masks(data: Manifest, percent: int, seed: int) -> Manifest:
    """``data`` with masks for ``percent`` of the defect images in training; the others train the class alone."""
    keep = masked_rows(data, percent, seed)
    unmasked = [row not in keep for row in range(len(data))] & (data.columns["split"] == "train")
    data.columns["mask"][unmasked] = ""
    return data


def keep_defects(data: Manifest, percent: int, seed: int) -> Manifest:
    """``data`` with ``percent`` of the defective parts of each type in training, at least one, and the more the
    percentage, the same and others; all good parts stay."""
    columns = data.columns
    defective = (columns["split"] == "train") & (data.labels > 0)
    keep = ~defective
    for kind in np.unique(columns["source"][defective]):
        rows = defective & (columns["source"] == kind)
        parts = sorted(set(columns["group"][rows].tolist()), key=lambda part: _order(f"{seed}/{part}"))
        keep |= rows & np.isin(columns["group"], parts[: max(round(len(parts) * percent / 100), 1)])
    return data.subset(keep)


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def trained_on(data: Manifest) -> dict[str, int]:
    """How many defective parts train, and how many images of them with their mask."""
    rows = (data.columns["split"] == "train") & (data.labels > 0)
    masks = int((data.columns["mask"][rows] != "").sum())
    return {"defective_parts": len(np.unique(data.columns["group"][rows])), "masks": masks}


def without_type(data: Manifest, kind: str) -> Manifest:
    """``data`` without a type of defect, but for its test images; the other types are not tested."""
    is_kind, is_test = data.columns["source"] == kind, data.columns["split"] == "test"
    return data.subset(np.where(is_test, is_kind | (data.labels == 0), ~is_kind))
