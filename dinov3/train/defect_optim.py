"""Which parameters learn at which rate, how the rate moves from step to step, and updates that are skipped."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dinov3.defect_errors import DefectError
from dinov3.models.defect_layers import backbone_layers
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_fsdp import clip_gradient, spread_like


def parameter_groups(
    model: nn.Module,
    criterion: nn.Module,
    lr: float,
    backbone_lr_scale: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Disjoint and complete groups of all parameters that train.

    The heads learn at ``lr``, the backbone's last layer at ``lr * backbone_lr_scale``, and each layer below at
    ``layer_decay`` times the rate of the one above (ULMFiT, arXiv 1801.06146; BEiT, arXiv 2106.08254): what is close
    to the image is general and should move least. Each is split in two: matrices and kernels with weight decay; norms,
    biases, scales (all that is one row) and tokens without. The loss's log-variances get no decay and ten times the
    rate: two scalars that start near their place.
    """
    groups: dict[str, dict] = {}
    layers = backbone_layers(model.backbone)
    last = max(layers.values(), default=0)

    def add(name: str, parameter: nn.Parameter, rate: float, decay: float) -> None:
        group = groups.setdefault(name, {"name": name, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = "heads", lr
        if name.startswith("backbone."):
            layer = layers[name.removeprefix("backbone.")]
            part = "backbone" if layer_decay == 1 else f"backbone_{layer}"
            rate = lr * backbone_lr_scale * layer_decay ** (last - layer)
        plain = sum(size > 1 for size in parameter.shape) <= 1 or name.endswith(("_token", "_tokens", "pos_embed"))
        add(f"{part}_no_decay" if plain else part, parameter, rate, 0.0 if plain else weight_decay)
    for parameter in criterion.parameters():
        add("task_weights", parameter, 10 * lr, 0.0)
    return list(groups.values())


def build_optimizer(model: nn.Module, criterion: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW over :func:`parameter_groups` at the rates of a resolved ``config``; on a CUDA device in one kernel, which
    also skips fp16's overflows there."""
    groups = parameter_groups(
        model, criterion, config.lr, config.backbone_lr_scale, config.weight_decay, config.layer_decay
    )
    return AdamW(groups, fused=True if groups[0]["params"][0].is_cuda else None)


def summarize_rates(rates: dict[str, float]) -> dict[str, float]:
    """The rates of parameter groups, by name, to log: ``lr_heads``, ``lr_task_weights``, ``lr_backbone``; with layer
    decay, instead of the last, those of the first and the last layer that trains (``lr_backbone_0``,
    ``lr_backbone_12``)."""
    rates = {name.removesuffix("_no_decay"): rate for name, rate in rates.items()}
    between = sorted((name for name in rates if name.startswith("backbone_")), key=lambda name: rates[name])[1:-1]
    return {f"lr_{name}": rate for name, rate in rates.items() if name not in between}


def lr_factor(step: int, total_steps: int, warmup_fraction: float = 0.05, floor: float = 0.01) -> float:
    """Share of the full rate at ``step`` (from 0): linear warm-up, then half a cosine down to ``floor``."""
    warmup = max(round(total_steps * warmup_fraction), 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def build_lr_scheduler(optimizer: Optimizer, total_steps: int, steps_done: int = 0) -> LambdaLR:
    """Steps :func:`lr_factor` once per optimizer step, from ``steps_done`` on."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps), last_epoch=steps_done - 1)


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep its own learning rates and decay: a resumed run may change those flags.

    Raises:
        DefectError: the state is of other parameter groups.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    # A fused optimizer's state lies on its device throughout, and torch goes by what the saved one was.
    groups = [group | {"fused": settings[0].get("fused")} for group in state["param_groups"]]
    state = state | {"param_groups": groups}
    try:
        optimizer.load_state_dict(spread_like(state, [p for group in optimizer.param_groups for p in group["params"]]))
    except ValueError as error:
        raise DefectError(
            f"--resume: the optimizer's state is of other parameter groups ({error}): --layer_decay was 1 and is no "
            "longer, or the reverse, or an earlier version wrote it. Use the same, or a new --save_dir with --init_from"
        ) from None
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own, initial_lr=own["lr"])


def taint(loss: Tensor) -> Tensor:
    """``loss``, whose gradient is NaN throughout if it is not finite, so that the norm of the gradient tells of it."""
    return loss * torch.ones_like(loss).masked_fill_(~loss.detach().isfinite(), math.nan)


class SkippingOptimizer:
    """An optimizer that skips an update whose loss or gradient is not finite: weights, moments and the statistics of
    BatchNorms stay as they were.

    A fused optimizer skips it on the device itself, and the host need not know.

    Args:
        optimizer: of all that trains in ``module``.
        module: whose BatchNorms these are.
        scaler: of fp16's losses; disabled in any other precision.
        grad_clip: largest norm of the gradient; 0 turns clipping off.
    """

    def __init__(self, optimizer: Optimizer, module: nn.Module, scaler: torch.amp.GradScaler, grad_clip: float):
        self.inner, self.scaler, self.grad_clip = optimizer, scaler, grad_clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._before: list[Tensor] = []

    def zero_grad(self) -> None:
        """Before the first batch of an update."""
        self._before = [buffer.clone() for buffer in self._statistics]
        self.inner.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a batch's ``loss``, a scalar, to that of the update."""
        self.scaler.scale(taint(loss)).backward()

    def step(self) -> tuple[Tensor, Tensor]:
        """Update the weights, or skip it.

        Returns:
            The norm of the gradient before clipping, a scalar; and whether the update was skipped, a bool scalar; both
            on the device, so that reading them waits for it.
        """
        self.scaler.unscale_(self.inner)
        norm = clip_gradient(self._parameters, self.grad_clip or math.inf)
        skipped = ~norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.inner)  # it looks at the gradient itself
        elif all(group.get("fused") for group in self.inner.param_groups):
            fused: Any = self.inner
            fused.found_inf = skipped.float()  # as torch's scaler tells it
            fused.step()
        elif not skipped:
            self.inner.step()
        self.scaler.update()
        for buffer, before in zip(self._statistics, self._before, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))
        return norm, skipped
