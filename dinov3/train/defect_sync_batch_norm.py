"""BatchNorm over the batches of all processes on the CPU, where torch's SyncBatchNorm does not work."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Let every BatchNorm in ``module`` take its training statistics over all processes; parameters and names stay."""
    for norm in module.modules():
        if isinstance(norm, BatchNormAct2d):
            norm.__class__ = _CommonBatchNormAct
        elif isinstance(norm, nn.BatchNorm2d):
            norm.__class__ = _CommonBatchNorm
    return module


def _normalize(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """(B, C, H, W) normalised with the mean and variance over B, H, W of all processes."""
    dtype, x = x.dtype, x.float()
    count = _Total.apply(x.new_tensor(x.numel() / x.shape[1]))
    mean = _Total.apply(x.sum(dim=(0, 2, 3))) / count  # (C,)
    centered = x - mean[:, None, None]
    variance = _Total.apply(centered.square().sum(dim=(0, 2, 3))) / count
    if norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
        norm.running_mean.lerp_(mean.detach(), share)
        norm.running_var.lerp_(variance.detach() * count / (count - 1), share)
    x = centered * (variance + norm.eps).rsqrt()[:, None, None]
    if norm.affine:
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    return x.to(dtype)


class _Total(torch.autograd.Function):
    """Sum over all processes; what each process's loss says about it flows back to all of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _CommonBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _normalize(self, x) if self.training else super().forward(x)


class _CommonBatchNormAct(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_normalize(self, x))) if self.training else super().forward(x)
