"""One training step on the GPU against the CPU's: losses, gradients, graphs."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.networks import build_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import Precision
from dinov3.models.defect_layers import checkpoint_activations
from dinov3.train.defect_fsdp import shard
from dinov3.train.defect_step import TrainStep

pytest_plugins = ["helpers.gpu"]
pytestmark = pytest.mark.gpu

BACKBONES = ["timm:test_efficientnet", "timm:test_vit", "dinov3_vitt16"]
CPU = torch.device("cpu")
CLOSE = {None: (1e-4, 1e-4), torch.bfloat16: (1e-2, 0.15), torch.float16: (2e-3, 0.03)}


def make_step(backbone: str) -> TrainStep:
    """On the CPU, the same each time, without dropout."""
    step = TrainStep(build_model(backbone), MultiTaskLoss())
    for module in step.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return step.train()


def inputs() -> tuple[Tensor, ...]:
    """Images, labels, masks and which have one, as the loop hands them to the step."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    masks = (torch.rand(4, 64, 64, generator=generator) < 0.2).to(torch.uint8)
    return images, torch.tensor([0, 1, 0, 1]), masks, torch.ones(4, dtype=torch.bool)


def gradients(step: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> tuple[float, Tensor]:
    """The loss of a step on ``device``, and its gradient as one vector."""
    precision = Precision(device, dtype)
    scaler = precision.scaler()
    step.zero_grad(set_to_none=True)
    with precision.autocast():
        loss = step(*(value.to(device) for value in inputs()))["total_loss"]
    scaler.scale(loss).backward()
    found = [p.grad for p in step.parameters() if p.grad is not None]
    found = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in found]
    return loss.item(), torch.cat([grad.flatten().cpu().double() for grad in found]) / scaler.get_scale()


def distance(one: Tensor, other: Tensor) -> float:
    """Of two vectors, as a share of the second one's length."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "bf16", "fp16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_is_that_of_the_cpu_in_float32(device: torch.device, backbone: str, dtype: torch.dtype | None) -> None:
    loss, gradient = gradients(make_step(backbone), CPU)
    step = make_step(backbone).to(device, memory_format=torch.channels_last)
    other_loss, other = gradients(step, device, dtype)
    of_loss, of_gradient = CLOSE[dtype]
    assert other_loss == pytest.approx(loss, rel=of_loss)
    assert distance(other, gradient) < of_gradient


@pytest.mark.parametrize("backbone", BACKBONES)
def test_channels_last_and_checkpointed_activations_change_nothing(device: torch.device, backbone: str) -> None:
    plain = make_step(backbone).to(device)
    loss, gradient = gradients(deepcopy(plain), device)
    checkpointed = plain.to(memory_format=torch.channels_last)
    checkpoint_activations(checkpointed.model.backbone)
    other_loss, other = gradients(checkpointed, device)
    assert other_loss == pytest.approx(loss, rel=1e-4) and distance(other, gradient) < 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_frozen_backbone_has_no_graph(device: torch.device, backbone: str) -> None:
    def kept_bytes(step: TrainStep) -> int:
        """Of what the forward pass keeps for the backward one."""
        sizes: list[int] = []

        def pack(value: Tensor) -> Tensor:
            sizes.append(value.numel() * value.element_size())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            step(*(value.to(device) for value in inputs()))["total_loss"].backward()
        return sum(sizes)

    step = make_step(backbone).to(device)
    trains = kept_bytes(step)
    assert any(p.grad is not None for p in step.model.backbone.parameters())
    step.zero_grad(set_to_none=True)
    step.model.freeze_backbone(True)
    frozen = kept_bytes(step)
    assert all(p.grad is None for p in step.model.backbone.parameters())
    assert any(p.grad is not None for p in step.model.decoder.parameters())
    assert frozen < 0.7 * trains


@pytest.fixture
def alone(device: torch.device, tmp_path: Path) -> Iterator[None]:
    """A group of this process alone: NCCL on a GPU, gloo on a CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(0)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("how", ["DistributedDataParallel", "FSDP2"])
@pytest.mark.parametrize("backbone", BACKBONES[1:])
def test_a_group_of_one_process_computes_what_a_plain_one_does(
    alone: None, device: torch.device, backbone: str, how: str
) -> None:
    loss, gradient = gradients(make_step(backbone).to(device), device)
    step = make_step(backbone)
    if how == "FSDP2":
        shard(step.model, device)
        step.criterion.to(device)
    else:
        devices = [0] if device.type == "cuda" else None
        step = DistributedDataParallel(step.to(device), devices, find_unused_parameters=True)
    other_loss, other = gradients(step, device)
    assert other_loss == pytest.approx(loss, rel=1e-5) and distance(other, gradient) < 1e-4
