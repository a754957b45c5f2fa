"""The training loop: one epoch, and the run that strings epochs together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from dinov3.data.defect_dataset import DefectDataset
from dinov3.data.defect_tile_dataset import DefectTileDataset
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import World
from dinov3.defect_evaluation.evaluate import View, evaluate, to_device
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.models.defect_classifier import (
    AttentionGuidedDefectClassifier,
    DynamicWeightScheduler,
    MultiTaskLoss,
)
from dinov3.models.defect_device import Precision
from dinov3.train.defect_checkpointer import Checkpointer
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_data import build_loaders, start_at
from dinov3.train.defect_optim import summarize_rates
from dinov3.train.defect_run_log import RunLog, image_scores, peak_memory
from dinov3.train.defect_run_pictures import example_page
from dinov3.train.defect_state import TrainState
from dinov3.train.defect_step import average_gradients


def train_one_epoch(
    state: TrainState,
    loader: DataLoader,
    *,
    precision: Precision,
    normalization: Normalization,
    checkpointer: Checkpointer,
    progress: bool = True,
) -> dict[str, float]:
    """One pass over the training set, or over what is left of it after an interruption.

    Args:
        state: is trained; its epoch has begun.
        loader: of the batches after the first ``state.meter.batches``, which its length counts, too.
        checkpointer: may save the state after each update.
        progress: show a bar.

    Returns:
        What :meth:`EpochMeter.compute` says of the epoch.

    Raises:
        DefectError: too many updates had to be skipped because their loss was not finite.
        StoppedError: a signal ended the run, and its state was saved.
    """
    step, optimizer, meter = state.step, state.optimizer, state.meter
    step.train()
    meter.start(state.epoch, loader)
    title = f"epoch {state.epoch + 1} train"
    bar = tqdm(loader, title, initial=meter.batches, unit="batch", disable=not progress, leave=False)
    batches = iter(bar)
    for size in update_sizes(len(loader) - meter.batches, state.config.accumulate):
        optimizer.zero_grad()
        for number in range(1, size + 1):
            batch = next(batches)
            inputs = to_device(batch, precision.device, normalization)
            average_gradients(step, number == size)  # over the processes: once an update, with its last batch
            with precision.autocast():
                losses = step(*inputs)
            optimizer.backward(losses["total_loss"] / size)
            meter.add(batch, losses)
        # Clips. An update that is not finite is skipped on the device, and the host does not wait to know: the average
        # takes in ``skipped`` there, and the meter finds out by itself from losses and norm, on CUDA an update later.
        grad_norm, skipped = optimizer.step()
        state.count_update(skipped)  # moves the learning rate and the average on
        meter.end_update(grad_norm)  # raises if too many were skipped
        bar.set_postfix_str(meter.loss_text(), refresh=False)
        checkpointer.after_update(state)
    bar.close()
    return meter.compute()


def update_sizes(batches: int, accumulate: int) -> Iterator[int]:
    """How many of ``batches`` make each update: ``accumulate``, and what is left over makes the last."""
    for done in range(0, batches, accumulate):
        yield min(accumulate, batches - done)


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
        DefectError: a set has fewer images than there are processes, or too many losses are not finite.
        StoppedError: SIGTERM or Ctrl-C ended the run, and ``last.pth`` knows where.
    """
    device, classes, progress = precision.device, description["classes"], world.is_main
    view = View(val_set.image_size, normalization, val_set.tiling)
    train_loader, val_loader = build_loaders(train_set, val_set, view, config, world, device)
    weight_scheduler = DynamicWeightScheduler(warmup_epochs=config.weight_warmup_epochs)
    updates = math.ceil(len(train_loader) / config.accumulate)
    state = TrainState(
        model, criterion, config, updates_per_epoch=updates, precision=precision, world=world, resume=resume
    )
    with Checkpointer(config, description, world, device) as checkpointer:
        log = RunLog(config.save_dir, state.epoch, classes) if world.is_main else None
        while not state.is_over:
            state.begin_epoch()
            start_at(train_loader, state.epoch, state.meter.batches)
            if config.use_dynamic_weights:
                criterion.alpha, criterion.beta = weight_scheduler.get_weights(state.epoch)
            result = train_one_epoch(
                state,
                train_loader,
                precision=precision,
                normalization=normalization,
                checkpointer=checkpointer,
                progress=progress,
            )
            state.synchronize_buffers()
            metrics = DefectMetrics(len(classes))
            rates = state.rates_at_epoch_start()
            result |= summarize_rates(rates) | evaluate(
                state.ema.module,
                checkpointer.batches_until_signal(val_loader, state),  # which saves the state and raises StoppedError
                metrics,
                view,
                batch_size=config.batch_size,
                precision=precision,
                criterion=criterion,
                description=f"epoch {state.epoch + 1} val",
                progress=progress,
            )
            scores = image_scores(metrics)
            page = None
            if world.is_main or state.is_sharded:  # which takes all processes to compute
                page = example_page(state.ema.module, val_set, precision, normalization)
            if log is not None:
                log.add_epoch(state.epoch, config.epochs, result, page, scores, rates, peak_memory(device))
            state.end_epoch(result)
            checkpointer.after_epoch(state)
    if log is not None:
        log.close()
        if state.early_stopping.is_over(state.epoch):
            tqdm.write(f"stopped after epoch {state.epoch}: {state.early_stopping}")
    return state.metrics | {"best": state.best}
