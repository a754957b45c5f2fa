"""Low-rank adapters on a backbone (LoRA, Hu et al. 2021, arXiv 2106.09685): few parameters train, and what they learned
is added to the weights when they are saved, so that inference knows nothing of them."""

from __future__ import annotations

from torch import Tensor, nn

from dinov3.defect_errors import DefectError

_ADAPTER = "default"  # peft's name for the only one


def add_lora(backbone: nn.Module, rank: int) -> None:
    """Freeze ``backbone`` and give each of its linear layers and 1x1 convolutions an adapter of this rank that trains.

    The adapters start at zero, so the features stay what they were; their output is scaled by 2 (``alpha / rank``).

    Raises:
        DefectError: the package peft is missing, or the backbone has no such layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise DefectError(
            "--lora_rank needs the package peft, which is not installed: pip install peft, or train the last layers "
            "alone with --unfreeze_last 4"
        ) from None
    targets = [name for name, module in backbone.named_modules() if _is_linear(module)]
    if not targets:
        raise DefectError(
            f"--lora_rank {rank}: {getattr(backbone, 'name', 'this backbone')} has no linear layers and no 1x1 "
            "convolutions to adapt. Use --unfreeze_last 4 instead"
        )
    for module in backbone.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # else timm reads qkv's weight and passes the adapter by
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), backbone)


def _is_linear(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return pointwise or isinstance(module, nn.Linear)


def _adapted(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}


def has_adapters(model: nn.Module) -> bool:
    """Whether :func:`add_lora` was here."""
    return bool(_adapted(model))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """``model.state_dict()`` as it would be without adapters: what they learned is added to the weights."""
    state = model.state_dict()
    adapted = _adapted(model)
    if not adapted:
        return state
    merged = {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}
    for name, layer in adapted.items():
        merged[f"{name}.weight"] = (layer.base_layer.weight + layer.get_delta_weight(_ADAPTER)).detach()
    return merged
