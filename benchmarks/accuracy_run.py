"""One run of ``accuracy.py``: a variant trained on one fold, and what it makes of every validation and test image."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_models import Stage, Variant
from torch import nn

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.novelty import fit_novelty
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_device import Precision, resolve_device, resolve_precision
from dinov3.models.defect_tta import FlipAugmented
from dinov3.train.defect_checkpointer import describe_run
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_data import build_criterion, build_datasets, enough_masks
from dinov3.train.defect_finetune import backbone_rates
from dinov3.train.train_defect_classifier import fit


def split_epochs(stages: tuple[Stage, ...], total: int) -> list[int]:
    """Epochs of each stage, at least one, adding up to ``total``; the longest stage takes up what rounding leaves."""
    epochs = [max(round(stage.share * total), 1) for stage in stages]
    epochs[epochs.index(max(epochs))] += total - sum(epochs)
    return epochs


def run(args: argparse.Namespace, variant: Variant, data: Manifest, folder: Path, seed: int) -> None:
    """Train one variant on one fold, and keep what it makes of every validation and test image."""
    precision = resolve_precision(args.mixed_precision, resolve_device(args.device))
    torch.manual_seed(seed)
    model, normalization = variant.build(args.backbone, args.weights)
    if not enough_masks(data.select("train")):  # as train_defect_model.py decides
        model.score_fusion = False
    model.to(precision.device, memory_format=torch.channels_last)
    for number, epochs in enumerate(split_epochs(variant.stages, args.epochs)):
        save_dir = folder / f"stage{number + 1}"
        train_stage(args, variant, number, epochs, model, data, save_dir, seed, precision, normalization)
    content = load_checkpoint(save_dir / "last.pth")  # the model as it now is: what is best on few parts is partly luck
    score_all(args, FlipAugmented(model), data, content, folder, "_flips", precision, normalization)
    if not variant.peer:
        score_novelty(args, model, data, content, folder, precision, normalization)
    score_all(args, model, data, content, folder, "", precision, normalization)
    for number in range(len(variant.stages)):
        shutil.rmtree(folder / f"stage{number + 1}")  # some 100 MB of weights


def score_novelty(
    args: argparse.Namespace,
    model: nn.Module,
    data: Manifest,
    content: dict[str, Any],
    folder: Path,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """As :func:`score_all`, with what is unlike good images; data with too few of them are said and do without."""
    model.eval()
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    try:
        novelty = fit_novelty(model, data, args.image_size, precision=precision, normalization=normalization, **options)
    except DefectError as error:
        print(f"no answers with novelty: {error}")
        return
    model.novelty = novelty.to(precision.device)
    score_all(args, model, data, content, folder, "_novelty", precision, normalization)
    model.novelty = None


def score_all(
    args: argparse.Namespace,
    model: nn.Module,
    data: Manifest,
    content: dict[str, Any],
    folder: Path,
    suffix: str,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """Keep what ``model`` makes of every validation and test image; the file of the test images comes last."""
    for name in (f"val{suffix}", f"test{suffix}"):
        rows = data.select(name.split("_")[0])
        view = View(args.image_size, normalization)
        options = {"num_workers": args.num_workers, "device": precision.device}
        loader = evaluation_loader(rows, view, args.batch_size, **options)
        results = ImageResults(2, content["thresholds"]["mask"])
        evaluate(model, loader, results, view, batch_size=args.batch_size, precision=precision, description=name)
        columns = {column: rows.columns[column] for column in ("image", "group", "source")}
        unfinished = folder / f"{name}.tmp.npz"  # what is called test.npz is a finished run
        np.savez_compressed(unfinished, **columns, images=results.images, regions=results.regions)
        unfinished.replace(folder / f"{name}.npz")


def train_stage(
    args: argparse.Namespace,
    variant: Variant,
    number: int,
    epochs: int,
    model: nn.Module,
    data: Manifest,
    save_dir: Path,
    seed: int,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """One stage of ``variant``; one that was interrupted starts again."""
    stage = variant.stages[number]
    shutil.rmtree(save_dir, ignore_errors=True)
    save_dir.mkdir(parents=True)
    model.freeze_backbone(stage.frozen)
    backbone_lr_scale, layer_decay = backbone_rates("vit" in args.backbone, args.weights != "none")
    config = TrainConfig(
        data_root=data.root,
        save_dir=save_dir,
        backbone=args.backbone,
        weights=args.weights,
        image_size=args.image_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        paste_defects=variant.paste_defects,
        **variant.options,
        alpha=stage.alpha,
        beta=stage.beta,
        use_dynamic_weights=stage.weights == "dynamic",
        use_uncertainty_weighting=stage.weights == "uncertainty",
        epochs=epochs,
        lr=stage.lr,
        backbone_lr_scale=stage.backbone_lr_scale or backbone_lr_scale,
        layer_decay=layer_decay,
        seed=seed,
    )
    train_rows = data.select("train")
    fit(
        model,
        build_criterion(config, train_rows).to(precision.device),
        *build_datasets(config, train_rows, data.select("val")),
        config,
        precision=precision,
        normalization=normalization,
        description=describe_run(config, data, normalization),
    )
