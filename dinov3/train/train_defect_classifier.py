"""The training loop: one epoch, one evaluation, and the run that strings them together."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset, make_loader
from dinov3.data.defect_tile_dataset import DefectTileDataset
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import (
    AsyncScalar,
    World,
    broadcast_buffers,
    means_over_ranks,
    sum_over_ranks,
)
from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader, report_unreadable, to_device
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.models.defect_classifier import (
    AttentionGuidedDefectClassifier,
    DynamicWeightScheduler,
    MultiTaskLoss,
)
from dinov3.models.defect_device import Precision
from dinov3.train.defect_checkpointer import Checkpointer
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_ema import ModelEma
from dinov3.train.defect_fsdp import InStep, is_to_shard, shard
from dinov3.train.defect_guardrails import EarlyStopping, LossGuard
from dinov3.train.defect_meter import COUNTS, EpochProgress
from dinov3.train.defect_optim import build_lr_scheduler, build_optimizer, learning_rates, restore_optimizer
from dinov3.train.defect_run_log import RunLog, image_scores, peak_memory
from dinov3.train.defect_run_pictures import example_page
from dinov3.train.defect_step import TrainStep, across_processes, common_norms
from dinov3.train.defect_update import Updater, UpdateRecord, taint


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
    accumulate: int = 1,
    after_update: Callable[[int, Tensor], None] = lambda number, left_out: None,
    after_batch: Callable[[Callable[[], None]], None] = lambda settle: None,
    progress: bool = True,
) -> dict[str, float]:
    """One pass over the training set, or what is left of it.

    Args:
        step: a :class:`TrainStep`, plain or wrapped.
        loader: of the batches after the first ``state.batches``.
        grad_clip: largest gradient norm; 0 turns clipping off.
        guard: decides on updates with a loss or gradient that is not finite: they change nothing and are left out, up
            to its limit.
        state: where the epoch stands; kept up to date.
        accumulate: batches whose gradients are averaged before each update; what is left at the end makes one too.
        after_update: called after each update with the number of updates so far in the run, and whether this one was
            left out, a bool scalar on the device.
        after_batch: called after the last batch of each update, with a function to call before ``state`` is saved.

    Returns:
        ``train_total_loss``, ``train_cls_loss``, ``train_seg_loss``, ``alpha``, ``beta`` (means over the epoch),
        ``images_per_second``; how many images taught the class (``verdicts_seen``) and the mask (``masks_seen``);
        ``unreadable``, how many could not be read; ``skipped_batches`` and ``loss_spikes``.

    Raises:
        DefectError: too many batches had to be left out.
    """
    step.train()
    updater = Updater(step, optimizer, scaler, grad_clip)
    write = tqdm.write if progress else lambda note: None
    late = precision.device.type == "cuda"
    record = UpdateRecord(guard, state, loader, late=late, overflows=scaler.is_enabled(), write=write)
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
    shown = AsyncScalar()
    start = time.perf_counter() - state.seconds
    gathered: list[dict[str, Any]] = []  # the batches of this update, with their losses in place of the pixels
    for batch in bar:
        state.counts[3] += report_unreadable(batch)
        inputs = to_device(batch, precision.device, normalization)
        if not gathered:
            size = min(accumulate, batches - state.batches)
            updater.begin()
        state.batches += 1
        is_last = len(gathered) + 1 == size
        with contextlib.nullcontext() if is_last or not hasattr(step, "no_sync") else step.no_sync():
            with precision.autocast():
                losses = step(*inputs)
            scaler.scale(taint(losses["total_loss"]) / size).backward()
        facts = {name: value for name, value in batch.items() if name not in ("image", "mask")}
        losses = {name: value.detach() for name, value in losses.items()}
        gathered.append(facts | {"losses": losses, "place": f"epoch {epoch + 1}, batch {state.batches}"})
        if not is_last:
            continue
        norm, left_out = updater.apply()
        lr_scheduler.step()
        after_update(lr_scheduler.last_epoch, left_out)
        record.add(gathered, norm)
        gathered = []
        state.seconds = time.perf_counter() - start
        if progress and state.totals and state.batches // 10 > (state.batches - size) // 10:
            mean = shown.exchange(state.totals["train_total_loss"] / state.counts[0])
            bar.set_postfix({} if mean is None else {"loss": f"{mean:.3f}"})
        after_batch(record.settle)
    record.settle()
    state.seconds = time.perf_counter() - start
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


def fit(
    model: AttentionGuidedDefectClassifier,
    criterion: MultiTaskLoss,
    train_set: DefectDataset | DefectTileDataset,
    val_set: DefectDataset | DefectTileDataset,
    config: TrainConfig,
    *,
    precision: Precision,
    normalization: Normalization,
    description: dict[str, Any],
    resume: dict[str, Any] | None = None,
    world: World = World(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Train for ``config.epochs`` epochs, with the checkpoints, logs and example pictures in ``config.save_dir``.

    Args:
        model, criterion: on ``precision.device`` already, but for a model to be sharded, which goes there in shares.
        train_set, val_set: of tiles, training sees crops, and validation slides over the whole images.
        config: resolved.
        description: what inference needs beside the weights; goes into every checkpoint.
        resume: a checkpoint of the same run to go on from, made after an epoch or within one.
        world: this process among several.

    Returns:
        The metrics of the last epoch, and ``best`` with those of each best checkpoint.

    Raises:
        StoppedError: SIGTERM or Ctrl-C ended the run, and ``last.pth`` knows where.
    """
    device, save_dir, progress = precision.device, config.save_dir, world.is_main
    sharded = is_to_shard(config, world, precision)
    weights = ModelEma(model, config.ema_decay)
    if resume is not None and "training_state" in resume and not weights.is_plain:
        weights.load_state_dict(resume["training_state"])
    if sharded:
        for module in dict.fromkeys((model, weights.evaluated)):  # one, or two with an average
            shard(common_norms(module, device), device)
    finish_validation = InStep(weights.evaluated, device).finish if sharded else lambda: None
    optimizer = build_optimizer(
        model,
        criterion,
        lr=config.lr,
        backbone_lr_scale=config.backbone_lr_scale,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
    )
    if len(val_set) < world.size or len(train_set) < world.size:
        raise DefectError(f"{len(train_set)} training and {len(val_set)} validation images for {world.size} processes")
    sampler = train_set.sampler(config.seed, world.rank, world.size)
    train_loader = make_loader(
        train_set,
        config.batch_size,
        sampler=sampler,
        num_workers=config.num_workers,
        pin_memory=device.type == "cuda",
    )
    view = View(val_set.image_size, normalization, val_set.tiling)
    val_loader = evaluation_loader(
        val_set.manifest,
        view,
        config.batch_size,
        num_workers=config.num_workers,
        device=device,
        rank=world.rank,
        world_size=world.size,
    )
    scaler = precision.scaler()
    guard = LossGuard(config.max_skipped_batches)
    early_stopping = EarlyStopping(config.early_stop_metric, config.early_stop_patience)
    weight_scheduler = DynamicWeightScheduler(warmup_epochs=config.weight_warmup_epochs)
    # Everything that training changes and that has a state: saved under these names.
    parts = {
        "model": SimpleNamespace(state_dict=weights.inference_state),
        "criterion": criterion,
        "optimizer": optimizer,
        "scaler": scaler,
    }
    parts |= {"guard": guard, "early_stopping": early_stopping}
    if not weights.is_plain:
        parts["training_state"] = weights
    first_epoch, best, result, state = 0, {}, {}, EpochProgress()
    if resume is not None:
        restore_optimizer(optimizer, resume["optimizer"])
        for name in set(parts) - {"model", "optimizer", "scaler", "training_state"}:
            if name in resume:
                parts[name].load_state_dict(resume[name])
        if scaler.is_enabled() and resume["scaler"]:
            scaler.load_state_dict(resume["scaler"])
        first_epoch, best, result = resume["epoch"], resume["best"], resume["metrics"]
        if resume.get("progress") is not None:
            state = EpochProgress.restore(resume["progress"], world, device)
    steps = math.ceil(len(train_loader) / config.accumulate)  # updates
    steps_done = steps * first_epoch + math.ceil(state.batches / config.accumulate)
    lr_scheduler = build_lr_scheduler(optimizer, steps * config.epochs, steps_done=steps_done)
    step = across_processes(TrainStep(model, criterion), world, device)
    keeper = Checkpointer(
        save_dir,
        parts,
        description | {"epochs": config.epochs},
        best=best,
        metrics=result,
        save_every_minutes=config.save_every_minutes,
        world=world,
        device=device,
    )
    with keeper:
        log = RunLog(save_dir, first_epoch, description["classes"]) if world.is_main else None
        for epoch in range(first_epoch, config.epochs):
            # Dropout and drop path draw from here: the same after a resume as without an interruption.
            torch.manual_seed(int(np.random.SeedSequence((config.seed, epoch, world.rank)).generate_state(1)[0]))
            state.restore_random(device)
            sampler.epoch, sampler.skip = epoch, state.batches * config.batch_size
            if config.use_dynamic_weights:
                criterion.alpha, criterion.beta = weight_scheduler.get_weights(epoch)
            state.rates = state.rates or learning_rates(optimizer)
            rates = {f"learning_rate/{group['name']}": group["lr"] for group in optimizer.param_groups}
            result = train_one_epoch(
                step,
                train_loader,
                optimizer,
                lr_scheduler,
                scaler,
                precision=precision,
                normalization=normalization,
                grad_clip=config.grad_clip,
                epoch=epoch,
                guard=guard,
                state=state,
                accumulate=config.accumulate,
                after_update=weights.update,
                after_batch=partial(keeper.after_batch, epoch, state),
                progress=progress,
            )
            broadcast_buffers(model)
            broadcast_buffers(weights.evaluated)
            metrics = DefectMetrics(len(description["classes"]))
            result |= state.rates | evaluate(
                weights.evaluated,
                keeper.stoppable(val_loader, epoch, state, finish_validation),
                metrics,
                view,
                batch_size=config.batch_size,
                precision=precision,
                criterion=criterion,
                description=f"epoch {epoch + 1} val",
                progress=progress,
            )
            scores = image_scores(metrics)
            if log is not None or sharded:  # which takes all processes to compute
                page = example_page(weights.evaluated, val_set, precision, normalization)
            if log is not None:
                log.add_epoch(epoch, config.epochs, result, page, scores, rates | peak_memory(device))
            early_stopping.update(epoch + 1, result)
            is_over = early_stopping.is_over(epoch + 1)
            keeper.after_epoch(epoch, result, is_last=is_over or epoch + 1 == config.epochs)
            state = EpochProgress()
            if is_over:
                if progress:
                    tqdm.write(f"stopped after epoch {epoch + 1}: {early_stopping}")
                break
    if log is not None:
        log.close()
    return result | {"best": best}
