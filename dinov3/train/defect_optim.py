"""Which parameters learn at which rate, and how the rate moves from step to step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dinov3.defect_errors import DefectError
from dinov3.models.defect_layers import backbone_layers
from dinov3.train.defect_fsdp import spread_like


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


def build_optimizer(
    model: nn.Module,
    criterion: nn.Module,
    *,
    lr: float,
    backbone_lr_scale: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> Optimizer:
    """AdamW over :func:`parameter_groups`; on a CUDA device in one kernel, which also skips fp16's overflows there."""
    groups = parameter_groups(model, criterion, lr, backbone_lr_scale, weight_decay, layer_decay)
    return AdamW(groups, fused=True if groups[0]["params"][0].is_cuda else None)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The rates in force, to log: ``lr_heads``, ``lr_task_weights``, ``lr_backbone``; with layer decay, instead of the
    last, those of the first and the last layer that trains (``lr_backbone_0``, ``lr_backbone_12``)."""
    rates = {group["name"].removesuffix("_no_decay"): group["lr"] for group in optimizer.param_groups}
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
