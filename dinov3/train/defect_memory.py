"""Memory: the largest batch that fits, and what to change when it runs out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from dinov3.data.defect_transforms import Normalization
from dinov3.defect_errors import DefectError
from dinov3.defect_size import ImageSize, height_width, size_text
from dinov3.models.defect_device import Precision
from dinov3.train.defect_config import TrainConfig

GIB = 2**30
SPARE = 0.05  # share of the device's memory that a trial must leave free


@dataclass(frozen=True)
class Demand:
    """What the memory goes to: the settings of a run and the parameters (counts) of its model."""

    batch_size: int
    accumulate: int
    image_size: ImageSize
    parameters: int
    trained: int
    averaged: bool
    checkpointed: bool
    autocast: bool

    @property
    def fixed_bytes(self) -> int:
        """Weights, and for what trains gradients and AdamW's two moments, in float32; whatever the batch is."""
        return 4 * (self.parameters + (3 + self.averaged) * self.trained)


def memory_demand(model: nn.Module, config: TrainConfig, precision: Precision) -> Demand:
    """What the run of a resolved ``config`` takes."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Demand(
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        image_size=config.image_size,
        parameters=sum(size for size, _ in sizes),
        trained=sum(size for size, trains in sizes if trains),
        averaged=config.ema_decay > 0,
        checkpointed=config.grad_checkpointing,
        autocast=precision.dtype is not None,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is torch's for a full device (CUDA, MPS) or a full host."""
    texts = ("out of memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


@contextmanager
def explain_out_of_memory(demand: Demand, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into a DefectError that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DefectError(out_of_memory_message(demand, device, str(error))) from None


def out_of_memory_message(demand: Demand, device: torch.device, reason: str) -> str:
    """What was needed, what there is, and the flags that change it, each with what it brings."""
    wanted = re.search(r"allocate ([\d.]+ ?\w+)", reason)
    lines = [f"{device} ran out of memory" + (f" when {wanted[1]} more were wanted" if wanted else "")]
    if device.type == "cuda" and torch.cuda.is_available():
        total, used = torch.cuda.mem_get_info(device)[1], torch.cuda.max_memory_allocated(device)
        lines[0] += f"; this run had {used / GIB:.1f} GiB of its {total / GIB:.1f} GiB"
    fixed = demand.fixed_bytes / GIB
    lines.append(
        f"The model takes {fixed:.2f} GiB whatever the batch ({demand.parameters / 1e6:.1f} M parameters, "
        f"{demand.trained / 1e6:.1f} M trained); the rest grows with --batch_size {demand.batch_size} and the area "
        f"of --image_size {size_text(demand.image_size, ' ')}. Choose one or more:"
    )
    if demand.batch_size > 1:
        half = demand.batch_size // 2
        steps = -(-demand.batch_size * demand.accumulate // half)
        lines.append(f"--batch_size {half} --accumulate {steps}: half of the rest, and as many images per update")
    sides = height_width(demand.image_size)
    smaller = tuple(min(max(side * 3 // 4 // 32 * 32, 32), side) for side in sides)
    if smaller != sides:
        flag, share = f"--image_size {size_text(smaller, ' ')}", math.prod(smaller) / math.prod(sides)
        lines.append(f"{flag}: {share:.0%} of the rest, if the smallest defect stays a few pixels wide")
    if device.type == "cuda":
        lines.append("--auto_batch: the largest batch that fits, found by trying")
        if not demand.autocast:
            lines.append("--mixed_precision auto: about half of the rest")
    if demand.trained > demand.parameters / 2:
        if not demand.checkpointed:
            lines.append("--grad_checkpointing: far less of the rest, for about a third more time")
        saved = (3 + demand.averaged) * 4 * demand.trained / GIB
        lines.append(f"--freeze_backbone, --unfreeze_last 4 or --lora_rank 8: most of {saved:.2f} GiB, and of the rest")
    return "\n  ".join(lines)


def largest_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, to an eighth; 0 if 1 does not. Doubles, then halves the gap."""
    good, bad = 0, most + 1
    trial = 1
    while trial < bad:
        if fits(trial):
            good = trial
            trial = min(2 * trial, most) if trial < most else bad
        else:
            bad = trial
    while bad - good > max(good // 8, 1):
        trial = (good + bad) // 2
        good, bad = (trial, bad) if fits(trial) else (good, trial)
    return good


def find_batch_size(
    step: nn.Module,
    demand: Demand,
    *,
    most: int,
    precision: Precision,
    normalization: Normalization,
) -> tuple[int, int]:
    """The largest batch of which a training step fits into the device's memory, and how many to accumulate.

    Args:
        step: a ``TrainStep``; its weights and norm statistics stay what they are.
        demand: of the run, with the batch that was asked for: if less fits, batches are accumulated to at least that.
        most: largest batch to try.

    Returns:
        ``batch_size``, ``accumulate``.

    Raises:
        DefectError: the device is no CUDA device, or not even one image fits.
    """
    device = precision.device
    if device.type != "cuda":
        raise DefectError(f"--auto_batch needs a CUDA device, as only these say how full they are; found {device.type}")

    def fits(batch: int) -> bool:
        torch.cuda.empty_cache()
        try:
            trial_step(step, batch, demand, precision, normalization)
            free, total = torch.cuda.mem_get_info(device)
            return free >= SPARE * total
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False

    batch = largest_that(fits, most)
    torch.cuda.empty_cache()
    if dist.is_initialized():  # all processes take the same batch
        least = torch.tensor(batch, device=device)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        batch = int(least)
    if batch == 0:
        raise DefectError(out_of_memory_message(demand, device, "not even one image fits"))
    return batch, max(demand.accumulate, -(-demand.batch_size * demand.accumulate // batch))


def trial_step(step: nn.Module, batch: int, demand: Demand, precision: Precision, normalization: Normalization) -> None:
    """Forward and backward on ``batch`` gray images, with room held for what the optimizer will want; ``step`` is left
    as it was, without gradients."""
    device, size = precision.device, height_width(demand.image_size)
    kept = {name: buffer.clone() for name, buffer in step.named_buffers()}
    try:
        held = torch.empty((3 + demand.averaged) * 4 * demand.trained, dtype=torch.uint8, device=device)
        step.train()
        images = normalization(torch.full((batch, 3, *size), 128, dtype=torch.uint8, device=device))
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        masks = torch.zeros((batch, *size), dtype=torch.uint8, device=device)
        with precision.autocast():
            losses = step(images, labels, masks, torch.ones(batch, dtype=torch.bool, device=device))
        losses["total_loss"].backward()
        del held
    finally:
        step.zero_grad(set_to_none=True)
        for name, buffer in step.named_buffers():
            buffer.copy_(kept[name])
