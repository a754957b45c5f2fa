"""Which parameters learn at which rate, and how the rate moves from step to step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    model: nn.Module, criterion: nn.Module, lr: float, backbone_lr_scale: float, weight_decay: float
) -> list[dict]:
    """Disjoint and complete groups of all parameters that train.

    The backbone learns at ``lr * backbone_lr_scale``, the heads at ``lr``, each split in two: matrices and kernels
    with weight decay, and norms, biases, scales and tokens (all that is one row) without. The loss's
    log-variances get no decay and ten times the rate: two scalars that start near their place.
    """
    groups: dict[str, dict] = {}

    def add(name: str, parameter: nn.Parameter, rate: float, decay: float) -> None:
        group = groups.setdefault(name, {"name": name, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if name.startswith("backbone.") else "heads"
        rate = lr * backbone_lr_scale if part == "backbone" else lr
        one_row = parameter.squeeze().ndim <= 1
        add(f"{part}_no_decay" if one_row else part, parameter, rate, 0.0 if one_row else weight_decay)
    for parameter in criterion.parameters():
        add("task_weights", parameter, 10 * lr, 0.0)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, criterion: nn.Module, *, lr: float, backbone_lr_scale: float, weight_decay: float
) -> Optimizer:
    """AdamW over :func:`parameter_groups`."""
    return AdamW(parameter_groups(model, criterion, lr, backbone_lr_scale, weight_decay))


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
    """Load an optimizer's state, but keep its own learning rates and decay: a resumed run may change those flags."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own, initial_lr=own["lr"])
