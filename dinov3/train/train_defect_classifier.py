"""The training loop: one epoch, one evaluation, and the run that strings them together."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_tile_dataset import DefectTileDataset, WholeImages
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.models.defect_classifier import (
    AttentionGuidedDefectClassifier,
    DynamicWeightScheduler,
    MultiTaskLoss,
)
from dinov3.models.defect_device import LateValue, Precision
from dinov3.train.defect_average import RunWeights
from dinov3.train.defect_checkpoint import save_checkpoint
from dinov3.train.defect_distributed import World, broadcast_buffers, means_over_ranks, sum_over_ranks
from dinov3.train.defect_metrics import DefectMetrics
from dinov3.train.defect_run_log import RunLog, example_page
from dinov3.train.defect_schedule import build_lr_scheduler, build_optimizer, learning_rates, restore_optimizer
from dinov3.train.defect_tile_evaluation import evaluate_tiles

# What 'best' means for each file: the first metric decides, the next ones break ties.
BEST = {
    "best_accuracy.pth": ("image_accuracy", "image_ap", "pixel_iou"),
    "best_iou.pth": ("pixel_iou", "image_ap"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """What the loop needs beside model, loss and data; the flags of the same names explain each."""

    save_dir: Path
    epochs: int
    batch_size: int
    num_workers: int
    lr: float
    backbone_lr_scale: float
    weight_decay: float
    grad_clip: float
    seed: int
    layer_decay: float = 1.0
    accumulate: int = 1
    ema_decay: float = 0.0


class TrainStep(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel averages the gradients of both."""

    def __init__(self, model: AttentionGuidedDefectClassifier, criterion: MultiTaskLoss):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor) -> dict[str, Tensor]:
        return self.criterion(self.model(images), labels, masks, has_mask)


def to_device(batch: dict[str, Any], device: torch.device, normalization: Normalization) -> tuple[Tensor, ...]:
    """Images (B, 3, H, W) normalised, labels (B,), masks (B, H, W), has_mask (B,), all on ``device``."""
    images, labels, masks, has_mask = (
        batch[name].to(device, non_blocking=True) for name in ("image", "label", "mask", "has_mask")
    )
    return normalization(images), labels, masks, has_mask


def train_one_epoch(
    step: nn.Module,
    loader: DataLoader,
    optimizer: Optimizer,
    lr_scheduler: LRScheduler,
    scaler: torch.amp.GradScaler,
    *,
    precision: Precision,
    normalization: Normalization,
    grad_clip: float,
    epoch: int,
    accumulate: int = 1,
    after_update: Callable[[int], None] = lambda number: None,
    progress: bool = True,
) -> dict[str, float]:
    """One pass over the training set.

    Args:
        step: a :class:`TrainStep`, plain or wrapped.
        grad_clip: largest gradient norm; 0 turns clipping off.
        accumulate: batches whose gradients are averaged before each update; what is left at the end makes one too.
        after_update: called with the number of updates so far in the run, after each.

    Returns:
        ``train_total_loss``, ``train_cls_loss``, ``train_seg_loss``, ``alpha``, ``beta`` (means over the epoch),
        ``images_per_second``; how many images taught the class (``verdicts_seen``) and the mask (``masks_seen``);
        ``unreadable``, how many could not be read.

    Raises:
        DefectError: the loss is not finite; nothing was updated by that batch.
    """
    step.train()
    totals: dict[str, Tensor] = {}
    images_seen, start = 0, time.perf_counter()
    counts = torch.zeros(4, dtype=torch.long)  # images, with verdict, with mask, unreadable
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shown = LateValue()
    bar = tqdm(loader, desc=f"epoch {epoch + 1} train", unit="batch", disable=not progress, leave=False)
    for number, batch in enumerate(bar):
        labels, has_mask = batch["label"], batch["has_mask"]
        counts += torch.tensor([len(labels), (labels >= 0).sum(), has_mask.sum(), report_unreadable(batch)])
        inputs = to_device(batch, precision.device, normalization)
        position = number % accumulate
        gathered = min(accumulate, len(loader) - number + position)  # batches of this update
        is_last = position == gathered - 1
        if position == 0:
            optimizer.zero_grad(set_to_none=True)
        with contextlib.nullcontext() if is_last or not hasattr(step, "no_sync") else step.no_sync():
            with precision.autocast():
                losses = step(*inputs)
            scaler.scale(losses["total_loss"] / gathered).backward()
        for name, value in losses.items():
            name = name if name in ("alpha", "beta") else f"train_{name}"
            totals[name] = totals.get(name, 0.0) + value.detach() * len(labels)
        images_seen += len(labels)
        if not is_last:
            continue
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip or math.inf)
        # fp16 overflows now and then; the scaler leaves such a step out.
        if not losses["total_loss"].isfinite() or not (norm.isfinite() or scaler.is_enabled()):
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            raise DefectError(
                f"epoch {epoch + 1}, batch {number + 1}: the loss or its gradient is not finite ({parts}, gradient "
                f"norm {norm.item():.4g}); no weight was changed by this batch. Lower --lr, or use --mixed_precision "
                "off, then continue with --resume"
            )
        scaler.step(optimizer)
        scaler.update()
        lr_scheduler.step()
        after_update(lr_scheduler.last_epoch)
        if progress and number // 10 > (number - accumulate) // 10:
            mean = shown.exchange(totals["train_total_loss"] / images_seen)
            bar.set_postfix({} if mean is None else {"loss": f"{mean:.3f}"})
    seconds = time.perf_counter() - start
    images, verdicts, masks, unreadable = sum_over_ranks(counts.to(precision.device)).tolist()
    seen = {"verdicts_seen": verdicts, "masks_seen": masks, "unreadable": unreadable}
    return means_over_ranks(totals, images_seen) | {"images_per_second": images / seconds} | seen


@torch.inference_mode()
def evaluate(
    model: AttentionGuidedDefectClassifier,
    loader: DataLoader,
    metrics: DefectMetrics,
    *,
    precision: Precision,
    normalization: Normalization,
    criterion: MultiTaskLoss | None = None,
    description: str = "evaluate",
    progress: bool = True,
) -> dict[str, Any]:
    """Metrics of ``model`` over ``loader``; with a ``criterion`` also ``val_total_loss`` and its parts.

    Unreadable images are reported and left out.
    """
    model.eval()
    # MPS has no float64, which the counts of pixels need.
    metrics_device = torch.device("cpu") if precision.device.type == "mps" else precision.device
    metrics.to(metrics_device)
    totals: dict[str, Tensor] = {}
    images_seen = 0
    for batch in tqdm(loader, desc=description, unit="batch", disable=not progress, leave=False):
        report_unreadable(batch)
        images, labels, masks, has_mask = to_device(batch, precision.device, normalization)
        with precision.autocast():
            outputs = model(images)
        if criterion is not None:
            for name, value in criterion(outputs, labels, masks, has_mask).items():
                if name.endswith("_loss"):
                    totals[f"val_{name}"] = totals.get(f"val_{name}", 0.0) + value * len(labels)
        images_seen += len(labels)
        outputs = {name: value.to(metrics_device) for name, value in outputs.items()}
        metrics.update(outputs, *(value.to(metrics_device) for value in (labels, masks, has_mask)))
    return metrics.compute() | means_over_ranks(totals, images_seen)


def report_unreadable(batch: dict[str, Any]) -> int:
    """Print why files of a batch could not be read, and count them."""
    problems = [error for error in batch["error"] if error]
    for problem in problems:
        tqdm.write(f"left out: {problem}")
    return len(problems)


def fit(
    model: AttentionGuidedDefectClassifier,
    criterion: MultiTaskLoss,
    train_set: DefectDataset | DefectTileDataset,
    val_set: DefectDataset | DefectTileDataset,
    options: TrainingOptions,
    *,
    precision: Precision,
    normalization: Normalization,
    description: dict[str, Any],
    weight_scheduler: DynamicWeightScheduler | None = None,
    resume: dict[str, Any] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Train for ``options.epochs`` epochs, with the checkpoints, logs and example pictures in ``options.save_dir``.

    Args:
        model, criterion: on ``precision.device`` already.
        train_set, val_set: of tiles, training sees crops, and validation slides over the whole images.
        description: what inference needs beside the weights; goes into every checkpoint.
        weight_scheduler: sets the loss weights before each epoch.
        resume: a checkpoint of the same run to go on from.
        world: this process among several.

    Returns:
        The metrics of the last epoch, and ``best`` with those of each best checkpoint.
    """
    device, save_dir, progress = precision.device, options.save_dir, world.is_main
    optimizer = build_optimizer(
        model,
        criterion,
        lr=options.lr,
        backbone_lr_scale=options.backbone_lr_scale,
        weight_decay=options.weight_decay,
        layer_decay=options.layer_decay,
    )
    weights = RunWeights(model, options.ema_decay)
    if len(val_set) < world.size or len(train_set) < world.size:
        raise DefectError(f"{len(train_set)} training and {len(val_set)} validation images for {world.size} processes")
    sampler = train_set.sampler(options.seed, world.rank, world.size)
    loader_options = {"num_workers": options.num_workers, "pin_memory": device.type == "cuda"}
    train_loader = make_loader(train_set, options.batch_size, sampler=sampler, **loader_options)
    val_rows = list(range(world.rank, len(val_set), world.size))
    validate = evaluate
    if isinstance(val_set, DefectTileDataset):
        whole = {"tiling": val_set.tiling, "image_size": val_set.image_size, "batch_size": options.batch_size}
        validate = partial(evaluate_tiles, **whole)
        val_loader = make_loader(WholeImages(val_set.manifest), None, sampler=val_rows, **loader_options)
    else:
        val_loader = make_loader(val_set, options.batch_size, sampler=val_rows, **loader_options)
    scaler = precision.scaler()
    first_epoch, best = 0, {}
    if resume is not None:
        restore_optimizer(optimizer, resume["optimizer"])
        if scaler.is_enabled() and resume["scaler"]:
            scaler.load_state_dict(resume["scaler"])
        criterion.load_state_dict(resume["criterion"])
        if "training_state" in resume:
            weights.load_state_dict(resume["training_state"])
        first_epoch, best = resume["epoch"], resume["best"]
    steps = math.ceil(len(train_loader) / options.accumulate)
    lr_scheduler = build_lr_scheduler(optimizer, steps * options.epochs, steps_done=steps * first_epoch)
    step: nn.Module = TrainStep(model, criterion)
    if world.size > 1:
        if device.type == "cuda":
            step = convert_sync_batchnorm(step)  # statistics of the whole batch; CUDA only
        step = DistributedDataParallel(step, device_ids=[device.index] if device.type == "cuda" else None)
    log = RunLog(save_dir, first_epoch) if world.is_main else None
    result: dict[str, Any] = dict(resume["metrics"]) if resume is not None else {}
    for epoch in range(first_epoch, options.epochs):
        # Dropout and drop path draw from here: the same after a resume as without an interruption.
        torch.manual_seed(int(np.random.SeedSequence((options.seed, epoch, world.rank)).generate_state(1)[0]))
        sampler.epoch = epoch
        if weight_scheduler is not None:
            criterion.alpha, criterion.beta = weight_scheduler.get_weights(epoch)
        rates = learning_rates(optimizer)
        result = train_one_epoch(
            step,
            train_loader,
            optimizer,
            lr_scheduler,
            scaler,
            precision=precision,
            normalization=normalization,
            grad_clip=options.grad_clip,
            epoch=epoch,
            accumulate=options.accumulate,
            after_update=weights.update,
            progress=progress,
        )
        broadcast_buffers(model)
        broadcast_buffers(weights.evaluated)
        result |= rates | validate(
            weights.evaluated,
            val_loader,
            DefectMetrics(len(description["classes"])),
            precision=precision,
            normalization=normalization,
            criterion=criterion,
            description=f"epoch {epoch + 1} val",
            progress=progress,
        )
        if world.is_main:
            content = description | {
                "model": weights.inference_state(),
                "training_state": weights.state_dict(),
                "criterion": criterion.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "epoch": epoch + 1,
                "epochs": options.epochs,
                "metrics": result,
            }
            page = example_page(weights.evaluated, val_set, precision, normalization)
            log.add_epoch(epoch, options.epochs, result, page)
            _save(save_dir, content, result, best)
    if log is not None:
        log.close()
    return result | {"best": best}


def _save(save_dir: Path, content: dict[str, Any], result: dict[str, Any], best: dict[str, dict[str, float]]) -> None:
    """``last.pth`` after each epoch, and each best file when its metrics, compared in order, exceed those so far.

    The best files hold the weights that were evaluated; the last one also those to go on training with.
    """

    def rank(metrics: dict[str, float], names: tuple[str, ...]) -> tuple[float, ...]:
        return tuple(-1.0 if math.isnan(metrics[name]) else metrics[name] for name in names)

    improved = [f for f, names in BEST.items() if f not in best or rank(result, names) > rank(best[f], names)]
    for file in improved:
        best[file] = {"epoch": content["epoch"]} | {name: result[name] for name in BEST[file]}
    content = content | {"best": best}
    for file in improved:
        save_checkpoint(save_dir / file, {name: value for name, value in content.items() if name != "training_state"})
    save_checkpoint(save_dir / "last.pth", content)  # comes last: it says that the best files are up to date
