"""One run of ``accuracy.py``: a variant trained on one fold, and what it makes of every validation and test image."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accuracy_models import Stage, Variant
from accuracy_runs import pack
from torch import nn

from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.image_results import ImageResults
from dinov3.defect_evaluation.novelty import fit_novelty
from dinov3.defect_evaluation.scoring import score
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_device import Precision, resolve_device, resolve_precision
from dinov3.models.defect_engines.torch_engine import TorchEngine
from dinov3.models.defect_facts import ModelFacts
from dinov3.models.defect_tta import FlipAugmented
from dinov3.train.defect_checkpointer import describe_run
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_data import build_criterion, build_datasets, enough_masks, mask_share
from dinov3.train.defect_finetune import backbone_rates
from dinov3.train.train_defect_classifier import fit

Splits = dict[str, dict[str, Any]]  # val and test, as a run file keeps them


def split_epochs(stages: tuple[Stage, ...], total: int) -> list[int]:
    """Epochs of each stage, at least one, adding up to ``total``; the longest stage takes up what rounding leaves."""
    epochs = [max(round(stage.share * total), 1) for stage in stages]
    epochs[epochs.index(max(epochs))] += total - sum(epochs)
    return epochs


def run(
    args: argparse.Namespace, variant: Variant, data: Manifest, folder: Path, seed: int
) -> Iterator[tuple[str, Splits]]:
    """Train one variant on one fold; yields what it makes of every validation and test image: with ``_flips`` and
    ``_novelty``, where asked for, and last its plain answers. ``folder`` is for weights, and is gone afterwards."""
    precision = resolve_precision(args.mixed_precision, resolve_device(args.device))
    torch.manual_seed(seed)
    model, normalization = variant.build(args.backbone, args.weights)
    train_rows = data.select("train")
    model.class_trains_decoder = variant.class_trains_decoder
    if variant.class_trains_decoder is None:
        model.class_trains_decoder = 1 - mask_share(train_rows)
    if not enough_masks(train_rows):  # as train_defect_model.py decides
        model.score_fusion = False
    model.to(precision.device, memory_format=torch.channels_last)
    for number, epochs in enumerate(split_epochs(variant.stages, args.epochs)):
        save_dir = folder / f"stage{number + 1}"
        train_stage(args, variant, number, epochs, model, data, save_dir, seed, precision, normalization)
    content = load_checkpoint(save_dir / "last.pth")  # the model as it now is: what is best on few parts is partly luck
    if args.flips:
        yield "_flips", score_all(args, FlipAugmented(model), data, content, precision)
    if args.novelty and not variant.peer and add_novelty(args, model, data, precision, normalization):
        yield "_novelty", score_all(args, model, data, content, precision)
        model.novelty = None
    yield "", score_all(args, model, data, content, precision)
    shutil.rmtree(folder)  # some 100 MB of weights


def add_novelty(
    args: argparse.Namespace, model: nn.Module, data: Manifest, precision: Precision, normalization: Normalization
) -> bool:
    """Let what is unlike good images count; False if the data have too few of them, which is said."""
    model.eval()
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    try:
        novelty = fit_novelty(model, data, args.image_size, precision=precision, normalization=normalization, **options)
    except DefectError as error:
        print(f"no answers with novelty: {error}")
        return False
    model.novelty = novelty.to(precision.device)
    return True


def score_all(
    args: argparse.Namespace,
    model: nn.Module,
    data: Manifest,
    content: dict[str, Any],
    precision: Precision,
) -> Splits:
    """What ``model`` makes of every validation and test image."""
    splits = {}
    for name in ("val", "test"):
        rows = data.select(name)
        facts = ModelFacts.of_checkpoint(content | {"novelty": None})
        engine = TorchEngine(model, facts, device=str(precision.device), precision=args.mixed_precision)
        results = ImageResults(2, content["thresholds"]["mask"])
        score(engine, rows, results, batch_size=args.batch_size, num_workers=args.num_workers, description=name)
        splits[name] = pack(results.images, results.regions, rows.columns)
    return splits


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
