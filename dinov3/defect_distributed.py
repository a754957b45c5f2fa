"""One process or several: who am I, who writes, and what all agree on; and numbers read asynchronously."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov3.defect_errors import DefectError, StoppedError

# What gloo, the store and NCCL say when the process at the other end is gone.
LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "Socket", "remote process exited")


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
    """Join the processes that ``torchrun`` started, if it did: the world, and this process's own device.

    Raises:
        DefectError: another process died, so that this one cannot go on; or the machine has fewer GPUs than processes.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(), device
        return
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise DefectError(
                f"process {world.local_rank + 1} of this machine finds {torch.cuda.device_count()} GPUs; start at most "
                "one process for each (NUM_GPUS, or torchrun's --nproc_per_node)"
            )
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo")
    try:
        yield world, device
        gc.collect()  # a sharded model refers to the group in cycles, which else would end it at any later time
        sum_over_ranks(torch.zeros((), device=device)).item()  # none leaves while another still needs it
    except (RuntimeError, dist.DistError) as error:
        # The group is left as it is: taking it down could wait for a process that is gone.
        if any(words in str(error) for words in LOST):
            raise DefectError(
                f"process {world.rank} of {world.size} ends because another one has died; that one's own message, "
                "if it left any, tells why. Start the same command again with --resume"
            ) from None
        raise
    except StoppedError:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all processes; the same tensor with one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def max_over_ranks(values: list[int], device: torch.device) -> list[int]:
    """Element-wise maximum over all processes, so that all of them decide alike."""
    if not dist.is_initialized():
        return values
    packed = torch.tensor(values, device=device)
    dist.all_reduce(packed, dist.ReduceOp.MAX)
    return packed.tolist()


class AsyncScalar:
    """A number of a device, or a few, that the host reads one step later, so that it never waits for the device."""

    def __init__(self):
        self._copy: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def put(self, value: Tensor) -> None:
        """Start copying ``value`` to the host."""
        self._copy = value.detach().to("cpu", non_blocking=True)
        if value.is_cuda:
            self._copied = torch.cuda.current_stream(value.device).record_event()

    def take(self) -> Tensor | None:
        """What was put last, on the CPU; None if it was taken before. Waits until it has arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        value, self._copy, self._copied = self._copy, None, None
        return value

    def exchange(self, value: Tensor) -> Tensor | None:
        """Put ``value`` and take the one before, long there; None the first time."""
        previous = self.take()
        self.put(value)
        return previous


class Agreement:
    """The element-wise maximum over all processes, so that all of them decide alike.

    Args:
        asynchronous: return that of the call before, so that the host never waits for a CUDA device.
    """

    def __init__(self, device: torch.device, asynchronous: bool):
        self.device, self.asynchronous, self._values = device, asynchronous, AsyncScalar()

    def reach(self, values: list[int]) -> list[int]:
        """What all have agreed on; zeros the first time if asynchronous. To be called in all processes."""
        if not self.asynchronous or not dist.is_initialized():
            return max_over_ranks(values, self.device)
        packed = torch.stack([torch.full((), value, device=self.device) for value in values])  # filled on the device
        dist.all_reduce(packed, dist.ReduceOp.MAX)
        agreed = self._values.exchange(packed)
        return [0] * len(values) if agreed is None else agreed.tolist()

    def forget(self) -> None:
        """What was agreed on has been done: the next call starts anew."""
        self._values = AsyncScalar()


def gather_over_ranks(value: Any) -> list[Any]:
    """The plain values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def batch_total(values: Tensor) -> Tensor:
    """Sums over this process's batch to sums over the batches of all processes.

    The gradient is that of this process's part times the number of processes, so that the mean over processes which
    DistributedDataParallel takes is the gradient of the whole batch, however the loss combines such sums.
    """
    if not dist.is_initialized():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total + dist.get_world_size() * (values - values.detach())


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
