"""One process or several: who am I, and who writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among the ``size`` that ``torchrun`` started; one of one without it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


@contextmanager
def join_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that ``torchrun`` started, if it did: the world, and this process's own device."""
    if "WORLD_SIZE" not in os.environ:
        yield World(), device
        return
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo")
    try:
        yield world, device
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all processes; the same tensor with one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def means_over_ranks(sums: dict[str, Tensor], count: int) -> dict[str, float]:
    """Sums over this process's ``count`` items to means over the items of all processes."""
    if not sums:
        return {}
    packed = torch.stack([*sums.values(), torch.full_like(next(iter(sums.values())), count)])
    *totals, items = sum_over_ranks(packed).tolist()
    return {name: total / items for name, total in zip(sums, totals, strict=True)}


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process the first one's norm statistics, so that all evaluate the same model."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
