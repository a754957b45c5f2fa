"""All that training changes, in one object that is saved and restored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dinov3.defect_distributed import World, broadcast_buffers, gather_over_ranks
from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint_fields import restoring
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import Precision
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_ema import ModelEma
from dinov3.train.defect_fsdp import InStep, gathered, is_to_shard, shard
from dinov3.train.defect_guardrails import EarlyStopping, LossGuard
from dinov3.train.defect_meter import EpochMeter
from dinov3.train.defect_optim import (
    SkippingOptimizer,
    build_lr_scheduler,
    build_optimizer,
    lr_factor,
    restore_optimizer,
)
from dinov3.train.defect_step import TrainStep, across_processes, with_sync_batch_norm


class TrainState:
    """A run at one moment.

    Args:
        model, criterion: on the device already, but for a model to be sharded, which goes there in shares.
        config: resolved.
        updates_per_epoch: of the weights.
        precision: with the device.
        world: this process among several.
        resume: a checkpoint of the same run to go on from, made after an epoch or within one.

    Attributes:
        model, criterion: what trains.
        ema: the model's average, if there is one: what is evaluated and kept.
        step: model and loss as one module, across all processes.
        optimizer, lr_scheduler: with what the gradients and the rates have come to.
        guard, early_stopping: what they have seen.
        meter: where the epoch stands.
        epoch: how many epochs are done.
        best: by file, the epoch and the metrics that made it the best.
        metrics: of the last epoch; empty before.

    Raises:
        DefectError: ``resume`` does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: MultiTaskLoss,
        config: TrainConfig,
        *,
        updates_per_epoch: int,
        precision: Precision,
        world: World = World(),  # noqa: B008 (frozen)
        resume: dict[str, Any] | None = None,
    ):
        device, scaler = precision.device, precision.scaler()
        self.config, self.world, self.device = config, world, device
        self.model, self.criterion, self.ema = model, criterion, ModelEma(model, config.ema_decay)
        if resume is not None:
            with restoring(config.last):  # before sharding, as checkpoints hold whole weights
                self.ema.load_state_dict(resume.get("training_state", resume), config.last)
        self._in_step: InStep | None = None
        if is_to_shard(config, world, precision):
            for module in dict.fromkeys((model, self.ema.module)):  # one, or two with an average
                shard(with_sync_batch_norm(module, device), device)
            self._in_step = InStep(self.ema.module, device)
        self.step = across_processes(TrainStep(model, criterion), world, device)
        self.optimizer = SkippingOptimizer(
            build_optimizer(model, criterion, config), self.step, scaler, config.grad_clip
        )
        self.guard = LossGuard(config.max_skipped_batches)
        self.early_stopping = EarlyStopping(config.early_stop_metric, config.early_stop_patience)
        self.meter = EpochMeter(
            self.guard,
            device,
            asynchronous=device.type == "cuda",
            overflows=scaler.is_enabled(),
            write=tqdm.write if world.is_main else lambda note: None,
        )
        self.epoch, self.best, self.metrics = 0, {}, {}
        self._random: dict[str, Tensor] = {}  # of torch's generators, where an epoch was interrupted
        if resume is not None:
            with restoring(config.last):  # after sharding, as the optimizer's moments are spread like the weights
                self._load_all_but_weights(resume)
        self.updates_per_epoch = updates_per_epoch
        updates_done = updates_per_epoch * self.epoch + math.ceil(self.meter.batches / config.accumulate)
        total = updates_per_epoch * config.epochs
        self.lr_scheduler = build_lr_scheduler(self.optimizer.inner, total, updates_done)

    def begin_epoch(self) -> None:
        """Seed torch's generators, from which dropout and drop path draw; resumed, they go on where they were."""
        seed = np.random.SeedSequence((self.config.seed, self.epoch, self.world.rank)).generate_state(1)[0]
        torch.manual_seed(int(seed))
        restore_random_states(self._random, self.device)
        self._random = {}

    def count_update(self, skipped: Tensor) -> None:
        """After each update, even one that was ``skipped`` (a bool scalar on the device): the learning rate moves on,
        and the average takes in the weights unless it was."""
        self.lr_scheduler.step()
        updates = self.lr_scheduler.last_epoch  # torch's name for how often the scheduler stepped: now with this update
        self.ema.update(updates, skipped)

    def rates_at_epoch_start(self) -> dict[str, float]:
        """The rate of each parameter group at the first update of the epoch that trains, or has just trained."""
        share = lr_factor(self.updates_per_epoch * self.epoch, self.updates_per_epoch * self.config.epochs)
        return {group["name"]: group["initial_lr"] * share for group in self.optimizer.inner.param_groups}

    def synchronize_buffers(self) -> None:
        """Give every process the first one's norm statistics, so that all evaluate the same model."""
        broadcast_buffers(self.model)
        broadcast_buffers(self.ema.module)

    @property
    def is_sharded(self) -> bool:
        """Whether the model is spread over the processes, so that it computes in all of them or in none."""
        return self._in_step is not None

    def finish_evaluation(self) -> None:
        """After this process's last validation batch; those of a sharded model may have more."""
        if self._in_step is not None:
            self._in_step.finish()

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch is done, and these are its metrics."""
        self.epoch += 1
        self.metrics = metrics
        self.early_stopping.update(self.epoch, metrics)
        self.meter.reset()

    @property
    def is_over(self) -> bool:
        """Whether the run has had its epochs, or does not improve any more."""
        return self.epoch >= self.config.epochs or self.early_stopping.is_over(self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the run, by the checkpoint's keys; to be called in all processes. Only the first
        one gets the tensors of a sharded model."""
        self.meter.flush()
        parts = {
            "model": self.ema.inference_state(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.inner.state_dict(),
            "scaler": self.optimizer.scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "early_stopping": self.early_stopping.state_dict(),
        }
        if not self.ema.is_plain:
            parts["training_state"] = self.ema.state_dict()
        progress = None
        if self.meter.batches:  # within an epoch
            progress = gather_over_ranks(self.meter.state_dict() | {"random": random_states(self.device)})
        place = {"epoch": self.epoch, "progress": progress, "metrics": self.metrics, "best": self.best}
        return gathered(parts, keep=self.world.is_main) | place

    def _load_all_but_weights(self, content: dict[str, Any]) -> None:
        """All of :meth:`state_dict` but the weights."""
        restore_optimizer(self.optimizer.inner, content["optimizer"])
        if self.optimizer.scaler.is_enabled() and content["scaler"]:
            self.optimizer.scaler.load_state_dict(content["scaler"])
        for name in ("criterion", "guard", "early_stopping"):
            if name in content:  # the oldest checkpoints have no guard
                getattr(self, name).load_state_dict(content[name])
        self.epoch, self.best, self.metrics = content["epoch"], content["best"], content["metrics"]
        progress = content.get("progress")
        if progress is None:
            return
        if len(progress) != self.world.size:
            raise DefectError(
                f"the run was interrupted within an epoch by {len(progress)} processes, and {self.world.size} are to "
                f"go on; start {len(progress)} (the number may change between epochs only)"
            )
        self.meter.load_state_dict(progress[self.world.rank])
        self._random = progress[self.world.rank]["random"]


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators that training on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put torch's random generators where they were, as far as ``states`` says."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    if "mps" in states and device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
