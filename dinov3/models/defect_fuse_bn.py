"""BatchNorm fused into the convolutions before it: the same function in fewer passes over memory, for inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dinov3.defect_size import ImageSize, height_width


@torch.inference_mode(False)
@torch.no_grad()
def fuse_batch_norms(model: nn.Module, image_size: ImageSize) -> int:
    """Fuse, in place, every BatchNorm whose input comes straight from a convolution; which ones do is found by running
    ``model`` on one image of ``image_size``. Where that changes what comes out (a convolution's output is used
    elsewhere, too), everything stays as it was.

    Args:
        model: in eval mode, on the CPU, in float32; its output is a dict of tensors. It cannot be trained afterwards.

    Returns:
        How many were fused.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *height_width(image_size), generator=generator)
    pairs, before = _find_pairs(model, image)
    undo = [(conv, conv.weight, conv.bias) for conv, _ in pairs]
    norms = {norm: name for name, norm in model.named_modules()}
    for conv, norm in pairs:
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's norm layers hold the activation behind them.
        _replace(model, norms[norm], getattr(norm, "act", None) or nn.Identity())
    if _same(before, model(image)):
        return len(pairs)
    for conv, weight, bias in undo:
        conv.weight, conv.bias = weight, bias
    for _, norm in pairs:
        _replace(model, norms[norm], norm)
    return 0


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)  # torch 2.4 has no set_submodule


def _find_pairs(model: nn.Module, image: Tensor) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], dict[str, Tensor]]:
    """Convolutions and the norms that take what they give, each run once; and the model's output."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the tensor's id; holding it keeps the id from being used again
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    runs: list[nn.Module] = []

    def after_conv(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs.append(conv)
        made[id(output)] = conv, output

    def before_norm(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        runs.append(norm)
        if id(inputs[0]) in made and norm.running_mean is not None:
            pairs.append((made[id(inputs[0])][0], norm))

    hooks = [m.register_forward_hook(after_conv) for m in model.modules() if type(m) is nn.Conv2d]
    hooks += [m.register_forward_pre_hook(before_norm) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    output = model(image)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if all(runs.count(module) == 1 for module in pair)], output


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    largest = {name: float(value.abs().max()) for name, value in a.items()}
    if not all(map(math.isfinite, largest.values())):
        return False
    return all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-4 * largest[name]) for name in a)
