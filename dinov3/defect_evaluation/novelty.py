"""Showing a trained model what good parts look like, so that defects of kinds it has never seen stand out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_manifest import Manifest, read_manifest
from dinov3.data.defect_tiles import Tiling
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import report_unreadable
from dinov3.defect_size import ImageSize
from dinov3.models.defect_checkpoint import restore_model
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_device import Precision
from dinov3.models.defect_novelty import Novelty, novelty_level

FEWEST = 5  # parts whose spread says what is usual


def fit_novelty(
    model: AttentionGuidedDefectClassifier,
    manifest: Manifest,
    image_size: ImageSize,
    *,
    precision: Precision,
    normalization: Normalization,
    batch_size: int,
    num_workers: int,
) -> Novelty:
    """What is new to ``model``: from the good training images, and the good validation images for what is usual.

    Unreadable images are reported and skipped.

    Args:
        model: in eval mode, on ``precision.device``; it stays as it is.

    Raises:
        DefectError: readable good images of fewer than 5 parts in one of the splits.
    """

    def maps(split: str) -> Iterator[Tensor]:
        rows = manifest.select(split)
        rows = rows.subset(rows.labels == 0)
        part, seen = rows.parts, set()
        dataset, pin_memory = DefectDataset(rows, image_size), precision.device.type == "cuda"
        loader = make_loader(dataset, batch_size, num_workers=num_workers, pin_memory=pin_memory)
        for batch in tqdm(loader, desc=f"good images of {split}", unit="batch", leave=False):
            report_unreadable(batch)
            readable = [not error for error in batch["error"]]
            images = batch["image"][readable]
            seen |= set(part[batch["index"].numpy()[readable]].tolist())
            if len(images):
                with torch.inference_mode(), precision.autocast():
                    yield novelty_level(model.encode(normalization(images.to(precision.device)))[2])
        if len(seen) < FEWEST:
            raise DefectError(
                f"{manifest.root}: readable good images of {len(seen)} parts in the {split} split; what is new to a "
                f"model is told from {FEWEST} parts or more"
            )

    return Novelty.fit(maps("train"), maps("val"))


def add_novelty(
    content: dict[str, Any],
    source: Path,
    data_root: Path,
    *,
    precision: Precision,
    batch_size: int,
    num_workers: int,
    dinov3_repo: Path | None = None,
) -> None:
    """Have the checkpoint ``content``, read from ``source``, judge by novelty, too; in place of what it had of that.

    Raises:
        DefectError: its model looks at tiles, or the dataset has too few good parts.
    """
    if Tiling.of(content):
        raise DefectError(f"{source}: trained on tiles; --novelty is for models that see whole images; leave it out")
    model = restore_model(content | {"novelty": None, "flips": False}, source, dinov3_repo)
    novelty = fit_novelty(
        model.to(precision.device, memory_format=torch.channels_last),
        read_manifest(data_root),
        content["image_size"],
        precision=precision,
        normalization=Normalization(**content["normalization"]),
        batch_size=batch_size,
        num_workers=num_workers,
    )
    content["novelty"] = novelty.state_dict()
