"""What a run trains on: its two splits, its loss with the weights of the classes, and a summary to print first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from dinov3.data.defect_dataset import DefectDataset, EpochSampler, make_loader
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_tile_dataset import DefectTileDataset, TileSampler
from dinov3.data.defect_tiles import Tiling
from dinov3.defect_display import on_a_line
from dinov3.defect_distributed import World
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluation_loader
from dinov3.defect_size import size_text
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier, MultiTaskLoss
from dinov3.train.defect_config import TrainConfig


@dataclass(frozen=True)
class TrainData:
    """A dataset, the rows of it that train, and both sets as the loaders take them."""

    manifest: Manifest
    train_rows: Manifest
    train_set: DefectDataset | DefectTileDataset
    val_set: DefectDataset | DefectTileDataset


def open_data(config: TrainConfig) -> TrainData:
    """The dataset of ``config``.

    Raises:
        DefectError: it is no dataset, or a split lacks normal or defect images.
    """
    manifest = read_manifest(config.data_root)
    train_rows, val_rows = usable_split(manifest, "train"), usable_split(manifest, "val")
    return TrainData(manifest, train_rows, *build_datasets(config, train_rows, val_rows))


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
    config: TrainConfig, train_rows: Manifest, val_rows: Manifest
) -> tuple[DefectDataset, DefectDataset] | tuple[DefectTileDataset, DefectTileDataset]:
    """The training and the validation set, of whole images or of tiles."""
    if not config.tile_size:
        train_set = DefectDataset(train_rows, config.image_size, augment=True, paste_defects=config.paste_defects)
        return train_set, DefectDataset(val_rows, config.image_size)
    tiling = Tiling.for_size(config.image_size, config.tile_size, config.tile_overlap)
    crops = {"defect_fraction": config.tile_defect_fraction, "tiles_per_image": config.tiles_per_image}
    train_set = DefectTileDataset(train_rows, tiling, config.image_size, augment=True, **crops)
    return train_set, DefectTileDataset(val_rows, tiling, config.image_size)


def build_loaders(
    train_set: DefectDataset | DefectTileDataset,
    val_set: DefectDataset | DefectTileDataset,
    view: View,
    config: TrainConfig,
    world: World,
    device: torch.device,
) -> tuple[DataLoader, DataLoader]:
    """This process's share of training, shuffled anew in each epoch, and of validation, for ``evaluate`` in this view.

    Raises:
        DefectError: a set has fewer images than there are processes.
    """
    if len(val_set) < world.size or len(train_set) < world.size:
        raise DefectError(f"{len(train_set)} training and {len(val_set)} validation images for {world.size} processes")
    train_loader = make_loader(
        train_set,
        config.batch_size,
        sampler=train_set.sampler(config.seed, world.rank, world.size),
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
    )
    val_loader = evaluation_loader(
        val_set.manifest,
        view,
        config.batch_size,
        num_workers=config.num_workers,
        device=device,
        rank=world.rank,
        world_size=world.size,
    )
    return train_loader, val_loader


def start_at(train_loader: DataLoader, epoch: int, batches: int) -> None:
    """Let the next pass over the training loader be that of ``epoch`` (from 0), without its first ``batches``, which
    were done before an interruption."""
    sampler = cast(EpochSampler | TileSampler, train_loader.sampler)
    sampler.epoch, sampler.skip = epoch, batches * (train_loader.batch_size or 1)


def mask_share(rows: Manifest) -> float:
    """Share of the defect images that have a mask, 0 to 1."""
    return float((rows.columns["mask"][rows.labels > 0] != "").mean())


def enough_masks(rows: Manifest) -> bool:
    """Whether at least a twentieth of the defect images have a mask, so that the mask's score is worth fusing with the
    classifier's: with a tenth, the fused score was not worse (``benchmarks/accuracy.py --masks 10``); fewer were not
    measured."""
    return mask_share(rows) >= 0.05


def balanced_weights(rows: Manifest, config: TrainConfig) -> torch.Tensor:
    """(K,) weights inverse to the classes' frequency, 1 on average over the images or, with tiles, the crops."""
    known = rows.labels[rows.labels >= 0]
    counts = np.bincount(known, minlength=len(rows.classes)).clip(min=1) / len(known)
    if config.tile_size:  # the flag decides how many crops show a defect
        counts[1:] *= max(config.tile_defect_fraction, 0.01) / counts[1:].sum()
        counts[0] = 1 - counts[1:].sum()
    return torch.tensor(1 / (len(rows.classes) * counts), dtype=torch.float32)


def build_criterion(config: TrainConfig, train_rows: Manifest) -> MultiTaskLoss:
    """The loss of ``config``; balanced class weights are those of ``train_rows``."""
    return MultiTaskLoss(
        config.alpha,
        config.beta,
        config.use_uncertainty_weighting,
        class_loss=config.class_loss,
        mask_loss=config.mask_loss,
        class_weights=balanced_weights(train_rows, config) if config.class_weights == "balanced" else None,
        label_smoothing=config.label_smoothing,
    )


def print_summary(
    config: TrainConfig,
    model: AttentionGuidedDefectClassifier,
    data: TrainData,
    device: torch.device,
) -> None:
    """What is about to be trained, on what."""
    total = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    size = f"{size_text(config.image_size)} px"
    print(f"{config.backbone} on {device}: {total:.1f} M parameters, {trained:.1f} M trained, {size}")
    if config.auto_batch or config.accumulate > 1:
        print(f"  batches of {config.batch_size}, {config.accumulate} per update")
    for split, counts in data.manifest.counts().items():
        if split != "test":
            print(f"  {split}: {on_a_line(', '.join(f'{n} {name}' for name, n in counts.items()))}")
    for line in data.manifest.weak_labels():
        print(f"  {line}")
    if isinstance(data.train_set, DefectTileDataset):
        centered = f"{config.tile_defect_fraction:.0%} of the crops centered on defects"
        print(f"  tiles of {data.train_set.tiling} px, {centered}")
        skipped = len(data.train_set) - len(data.train_set.usable_rows())
        if skipped:
            print(f"  {skipped} training images are larger than a tile and have no mask: skipped")
