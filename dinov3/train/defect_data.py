"""What a run trains on: its two splits, the weights of its classes, and a summary to print first."""

from __future__ import annotations

import argparse

import numpy as np
import torch

from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_tile_dataset import DefectTileDataset
from dinov3.data.defect_tiles import Tiling
from dinov3.defect_errors import DefectError
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier


def usable_split(manifest: Manifest, split: str) -> Manifest:
    """Rows of a split, which must hold normal and defect images."""
    rows = manifest.select(split)
    missing = [name for name in ("normal", "defect") if ((rows.labels > 0) == (name == "defect")).sum() == 0]
    if missing:
        raise DefectError(
            f"{manifest.root}: no {' and no '.join(missing)} images in the {split} split; training needs both in train "
            "and val: organise again with more images or another --val_split"
        )
    return rows


def build_datasets(
    args: argparse.Namespace, train_rows: Manifest, val_rows: Manifest
) -> tuple[DefectDataset, DefectDataset] | tuple[DefectTileDataset, DefectTileDataset]:
    """The training and the validation set, of whole images or of tiles."""
    if not args.tile_size:
        train_set = DefectDataset(train_rows, args.image_size, augment=True, paste_defects=args.paste_defects)
        return train_set, DefectDataset(val_rows, args.image_size)
    tiling = Tiling(args.tile_size, args.tile_overlap)
    crops = {"defect_fraction": args.tile_defect_fraction, "tiles_per_image": args.tiles_per_image}
    train_set = DefectTileDataset(train_rows, tiling, args.image_size, augment=True, **crops)
    return train_set, DefectTileDataset(val_rows, tiling, args.image_size)


def enough_masks(rows: Manifest) -> bool:
    """Whether at least a twentieth of the defect images have a mask, so that the mask's score is worth fusing with the
    classifier's: with a tenth, the fused score was not worse (``benchmarks/accuracy.py --masks 10``); fewer were not
    measured."""
    return bool((rows.columns["mask"][rows.labels > 0] != "").mean() >= 0.05)


def balanced_weights(rows: Manifest, args: argparse.Namespace) -> torch.Tensor:
    """(K,) weights inverse to the classes' frequency, 1 on average over the images or, with tiles, the crops."""
    known = rows.labels[rows.labels >= 0]
    counts = np.bincount(known, minlength=len(rows.classes)).clip(min=1) / len(known)
    if args.tile_size:  # the flag decides how many crops show a defect
        counts[1:] *= max(args.tile_defect_fraction, 0.01) / counts[1:].sum()
        counts[0] = 1 - counts[1:].sum()
    return torch.tensor(1 / (len(rows.classes) * counts), dtype=torch.float32)


def print_summary(
    args: argparse.Namespace,
    model: AttentionGuidedDefectClassifier,
    manifest: Manifest,
    train_set: DefectDataset | DefectTileDataset,
    device: torch.device,
) -> None:
    """What is about to be trained, on what."""
    total = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    print(f"{args.backbone} on {device}: {total:.1f} M parameters, {trained:.1f} M trained, {args.image_size} px")
    if args.auto_batch or args.accumulate > 1:
        print(f"  batches of {args.batch_size}, {args.accumulate} per update")
    for split, counts in manifest.counts().items():
        if split != "test":
            print(f"  {split}: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    for line in manifest.weak_labels():
        print(f"  {line}")
    if isinstance(train_set, DefectTileDataset):
        print(f"  tiles of {args.tile_size} px, {args.tile_defect_fraction:.0%} of the crops centered on defects")
        left_out = len(train_set) - len(train_set.usable_rows())
        if left_out:
            print(f"  {left_out} training images are larger than a tile and have no mask: left out")
