"""A backbone as a stack of layers: their order from the image on, drop path, activation checkpointing."""

from __future__ import annotations

from functools import partial

from timm.layers import DropPath
from timm.models import group_parameters
from torch import nn
from torch.utils.checkpoint import checkpoint

from dinov3.defect_errors import DefectError

# How the official ViT and ConvNeXt name their layers, in the terms of timm's group_matcher.
_OFFICIAL = {
    "stem": r"^(?:cls_token|storage_tokens|mask_token|patch_embed|downsample_layers\.0\.)",
    "blocks": [
        (r"^blocks\.(\d+)\.", None),
        (r"^downsample_layers\.(\d+)\.", (0,)),  # with the first block behind it
        (r"^stages\.(\d+)\.(\d+)\.", None),
    ],
}
# What matches nothing else, such as the final norm, belongs to the layer before it (99999 is timm's sign for that).
_REST = {"rest": [(r".", (99999,))]}

# Where blocks keep their drop path: timm's and the official ConvNeXt as modules, the official ViT as a number.
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")
_DROP_RATIO = "sample_drop_ratio"


def backbone_layers(backbone: nn.Module) -> dict[str, int]:
    """The layer of each parameter of ``backbone``, by name: 0 is the patch embedding with the tokens, or the stem; each
    block is one more; the final norm belongs to the last block. A module of unknown structure is one layer, 0."""
    network = getattr(backbone, "network", backbone)
    prefix = "network." if network is not backbone else ""
    if hasattr(network, "group_matcher"):
        matcher = network.group_matcher(coarse=False)
    elif hasattr(network, "blocks") or hasattr(network, "stages"):
        matcher = _OFFICIAL
    else:
        return {name: 0 for name, _ in backbone.named_parameters()}
    return {prefix + name: layer for name, layer in group_parameters(network, matcher | _REST, reverse=True).items()}


def unfreeze_last(backbone: nn.Module, count: int) -> None:
    """Let the last ``count`` layers of :func:`backbone_layers` train, and no other parameter of ``backbone``.

    Raises:
        DefectError: it has fewer layers.
    """
    layers = backbone_layers(backbone)
    total = max(layers.values()) + 1
    if count > total:
        raise DefectError(f"--unfreeze_last {count}: this backbone has {total} layers, expected 0 to {total}")
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(layers[name] >= total - count)


def hold_frozen_parts(backbone: nn.Module, batch_norm: bool = False) -> None:
    """Put every part of ``backbone`` in which nothing trains into eval mode: norm statistics and drop path are off.
    With ``batch_norm`` every BatchNorm, too: it keeps the statistics it came with; scale and shift may train."""
    for module in backbone.modules():
        parameters = list(module.parameters())
        is_norm = batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm or (parameters and not any(parameter.requires_grad for parameter in parameters)):
            module.eval()


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Skip residual branches at random while training, the last block's with probability ``rate`` and those before it
    with less, linearly from 0 (stochastic depth, Huang et al. 2016, arXiv 1603.09382).

    Raises:
        DefectError: no block of this backbone can skip anything.
    """
    blocks = [m for m in backbone.modules() if any(hasattr(m, name) for name in (*_DROP_PATHS, _DROP_RATIO))]
    if not blocks:
        raise DefectError(f"--drop_path {rate}: this backbone has no residual blocks that know drop path; use 0")
    for number, block in enumerate(blocks, start=1):
        share = rate * (number - 1) / max(len(blocks) - 1, 1)
        for name in _DROP_PATHS:
            if hasattr(block, name):
                setattr(block, name, DropPath(share) if share > 0 else nn.Identity())
        if hasattr(block, _DROP_RATIO):
            setattr(block, _DROP_RATIO, share)


def checkpoint_activations(backbone: nn.Module) -> None:
    """Keep only what goes into each block and compute the rest again on the way back: far less memory, about a third
    more time, the same gradients."""
    network = getattr(backbone, "network", backbone)
    if hasattr(network, "set_grad_checkpointing"):
        network.set_grad_checkpointing()
        return
    blocks = [m for m in network.modules() if any(hasattr(m, name) for name in (*_DROP_PATHS, _DROP_RATIO))]
    if not blocks:
        raise DefectError(
            "--grad_checkpointing: the blocks of this backbone are not known; use --no-grad_checkpointing"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
