"""The training loop: one epoch, one evaluation, and the run that strings them together."""

from __future__ import annotations

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
from dinov3.models.defect_device import Precision
from dinov3.train.defect_cpu_norm import synchronize_batch_norm
from dinov3.train.defect_distributed import (
    World,
    batch_total,
    broadcast_buffers,
    gather_over_ranks,
    means_over_ranks,
    sum_over_ranks,
)
from dinov3.train.defect_evaluation import evaluate, report_unreadable, to_device
from dinov3.train.defect_guardrails import EarlyStopping, LossGuard
from dinov3.train.defect_metrics import DefectMetrics
from dinov3.train.defect_progress import COUNTS, EpochProgress
from dinov3.train.defect_run_keeper import RunKeeper
from dinov3.train.defect_run_log import RunLog, example_page
from dinov3.train.defect_schedule import build_lr_scheduler, build_optimizer, restore_optimizer
from dinov3.train.defect_tile_evaluation import evaluate_tiles


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
    save_every_minutes: float = 10.0
    max_skipped_batches: int = 10


class TrainStep(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel averages the gradients of both."""

    def __init__(self, model: AttentionGuidedDefectClassifier, criterion: MultiTaskLoss):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, images: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor) -> dict[str, Tensor]:
        return self.criterion(self.model(images), labels, masks, has_mask, batch_total=batch_total)


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
    guard: LossGuard,
    state: EpochProgress,
    after_batch: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> dict[str, float]:
    """One pass over the training set, or what is left of it.

    Args:
        step: a :class:`TrainStep`, plain or wrapped.
        loader: of the batches after the first ``state.batches``.
        grad_clip: largest gradient norm; 0 turns clipping off.
        guard: decides on batches whose loss or gradient is not finite: they change nothing and are left out, up to
            its limit.
        state: where the epoch stands; kept up to date.
        after_batch: called after each batch.

    Returns:
        ``train_total_loss``, ``train_cls_loss``, ``train_seg_loss``, ``alpha``, ``beta`` (means over the epoch),
        ``images_per_second``; how many images taught the class (``verdicts_seen``) and the mask (``masks_seen``);
        ``unreadable``, how many could not be read; ``skipped_batches`` and ``loss_spikes``.

    Raises:
        DefectError: too many batches had to be left out.
    """
    step.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [
        b for module in step.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) for b in module.buffers()
    ]
    batches = len(loader)
    bar = tqdm(
        loader,
        f"epoch {epoch + 1} train",
        batches,
        initial=state.batches,
        unit="batch",
        disable=not progress,
        leave=False,
    )
    start = time.perf_counter() - state.seconds
    for batch in bar:
        place = f"epoch {epoch + 1}, batch {state.batches + 1}"
        labels, has_mask, unreadable = batch["label"], batch["has_mask"], report_unreadable(batch)
        inputs = to_device(batch, precision.device, normalization)
        statistics = [buffer.clone() for buffer in norms]
        with precision.autocast():
            losses = step(*inputs)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(losses["total_loss"]).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, grad_clip or math.inf)
        loss = losses["total_loss"].item()
        # fp16 overflows now and then; the scaler leaves such a step out.
        if not math.isfinite(loss) or not (norm.isfinite() or scaler.is_enabled()):
            for buffer, before in zip(norms, statistics, strict=True):
                buffer.copy_(before)
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            parts = f"{place}: the loss or its gradient is not finite ({parts}, gradient norm {norm.item():.4g})"
            note = guard.skip(f"{parts}; files: {batch_files(batch, loader)}")
            state.skipped += 1
        else:
            scaler.step(optimizer)
            note = ""
            if guard.is_spike(loss):
                note = f"{place}: loss {loss:.4g}, usually about {guard.usual:.4g}; files: {batch_files(batch, loader)}"
                state.spikes += 1
            for name, value in losses.items():
                name = name if name in ("alpha", "beta") else f"train_{name}"
                state.totals[name] = state.totals.get(name, 0.0) + value.detach() * len(labels)
            state.counts[:3] += torch.tensor([len(labels), (labels >= 0).sum(), has_mask.sum()])
        if note and progress:
            tqdm.write(note)
        state.counts[3] += unreadable
        scaler.update()
        lr_scheduler.step()
        state.batches += 1
        state.seconds = time.perf_counter() - start
        if state.batches % 10 == 0 and state.totals:
            bar.set_postfix(loss=f"{(state.totals['train_total_loss'] / state.counts[0]).item():.3f}")
        after_batch()
    counts = dict(zip(COUNTS, sum_over_ranks(state.counts.to(precision.device, copy=True)).tolist(), strict=True))
    if not state.totals:
        raise DefectError(f"epoch {epoch + 1}: the loss was finite in none of its batches; lower --lr")
    return means_over_ranks(state.totals, int(state.counts[0])) | {
        "images_per_second": counts["images"] / state.seconds,
        "verdicts_seen": counts["verdicts"],
        "masks_seen": counts["masks"],
        "unreadable": counts["unreadable"],
        "skipped_batches": state.skipped,
        "loss_spikes": state.spikes,
    }


def batch_files(batch: dict[str, Any], loader: DataLoader) -> str:
    """The images of a batch, in all processes; to be called in all of them."""
    names = [str(loader.dataset.manifest.columns["image"][index]) for index in batch["index"].tolist()]
    return ", ".join(name for part in gather_over_ranks(names) for name in part)


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
    early_stopping: EarlyStopping | None = None,
    resume: dict[str, Any] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Train for ``options.epochs`` epochs, with the checkpoints, logs and example pictures in ``options.save_dir``.

    Args:
        model, criterion: on ``precision.device`` already.
        train_set, val_set: of tiles, training sees crops, and validation slides over the whole images.
        description: what inference needs beside the weights; goes into every checkpoint.
        weight_scheduler: sets the loss weights before each epoch.
        early_stopping: may end the run before its last epoch.
        resume: a checkpoint of the same run to go on from, made after an epoch or within one.
        world: this process among several.

    Returns:
        The metrics of the last epoch, and ``best`` with those of each best checkpoint.

    Raises:
        StoppedError: SIGTERM or Ctrl-C ended the run, and ``last.pth`` knows where.
    """
    device, save_dir, progress = precision.device, options.save_dir, world.is_main
    optimizer = build_optimizer(
        model,
        criterion,
        lr=options.lr,
        backbone_lr_scale=options.backbone_lr_scale,
        weight_decay=options.weight_decay,
    )
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
    guard = LossGuard(options.max_skipped_batches)
    early_stopping = early_stopping or EarlyStopping("image_ap", 0)
    # Everything that training changes and that has a state: saved under these names.
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer, "scaler": scaler}
    parts |= {"guard": guard, "early_stopping": early_stopping}
    first_epoch, best, result, state = 0, {}, {}, EpochProgress()
    if resume is not None:
        restore_optimizer(optimizer, resume["optimizer"])
        for name in set(parts) - {"model", "optimizer", "scaler"}:
            if name in resume:
                parts[name].load_state_dict(resume[name])
        if scaler.is_enabled() and resume["scaler"]:
            scaler.load_state_dict(resume["scaler"])
        first_epoch, best, result = resume["epoch"], resume["best"], resume["metrics"]
        if resume.get("progress") is not None:
            state = EpochProgress.restore(resume["progress"], world, device)
    steps = len(train_loader)
    steps_done = steps * first_epoch + state.batches
    lr_scheduler = build_lr_scheduler(optimizer, steps * options.epochs, steps_done=steps_done)
    step: nn.Module = TrainStep(model, criterion)
    if world.size > 1:
        # statistics of the whole batch
        step = convert_sync_batchnorm(step) if device.type == "cuda" else synchronize_batch_norm(step)
        step = DistributedDataParallel(step, device_ids=[device.index] if device.type == "cuda" else None)
    keeper = RunKeeper(
        save_dir,
        parts,
        description | {"epochs": options.epochs},
        best=best,
        metrics=result,
        save_every_minutes=options.save_every_minutes,
        world=world,
        device=device,
    )
    with keeper:
        log = RunLog(save_dir, first_epoch) if world.is_main else None
        for epoch in range(first_epoch, options.epochs):
            # Dropout and drop path draw from here: the same after a resume as without an interruption.
            torch.manual_seed(int(np.random.SeedSequence((options.seed, epoch, world.rank)).generate_state(1)[0]))
            state.restore_random(device)
            sampler.epoch, sampler.skip = epoch, state.batches * options.batch_size
            if weight_scheduler is not None:
                criterion.alpha, criterion.beta = weight_scheduler.get_weights(epoch)
            state.rates = state.rates or {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}
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
                guard=guard,
                state=state,
                after_batch=partial(keeper.after_batch, epoch, state),
                progress=progress,
            )
            broadcast_buffers(model)
            result |= state.rates | validate(
                model,
                keeper.stoppable(val_loader, epoch, state),
                DefectMetrics(len(description["classes"])),
                precision=precision,
                normalization=normalization,
                criterion=criterion,
                description=f"epoch {epoch + 1} val",
                progress=progress,
            )
            if log is not None:
                log.add_epoch(epoch, options.epochs, result, example_page(model, val_set, precision, normalization))
            early_stopping.update(epoch + 1, result)
            is_over = early_stopping.is_over(epoch + 1)
            keeper.after_epoch(epoch, result, is_last=is_over or epoch + 1 == options.epochs)
            state = EpochProgress()
            if is_over:
                if progress:
                    tqdm.write(f"stopped after epoch {epoch + 1}: {early_stopping}")
                break
    if log is not None:
        log.close()
    return result | {"best": best}
