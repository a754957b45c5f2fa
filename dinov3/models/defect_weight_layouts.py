"""How Meta, timm and transformers name the tensors of the same networks, and how one becomes the other."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """How another project names the tensors of a network; `rules` rename them, in order, to timm's names."""

    title: str
    anchor: str  # a key that only this layout has; what stands before it is a wrapper's prefix
    rules: tuple[tuple[str, str], ...]


LAYOUTS = (
    Layout(
        "Meta",
        "storage_tokens",
        (
            (r"^storage_tokens$", "reg_token"),
            (r"\.ls([12])\.gamma$", r".gamma_\1"),
            (r"\.mlp\.w1\.", ".mlp.fc1_g."),
            (r"\.mlp\.w2\.", ".mlp.fc1_x."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
    ),
    Layout(
        "Meta",
        "downsample_layers.0.0.weight",
        (
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv([12])\.", r".mlp.fc\1."),
            (r"^norm\.", "head.norm."),
        ),
    ),
    Layout(
        "transformers",
        "embeddings.register_tokens",
        (
            (r"^embeddings\.register_tokens$", "reg_token"),
            (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
            (r"^embeddings\.", ""),
            (r"^layer\.", "blocks."),
            (r"\.attention\.o_proj\.", ".attn.proj."),
            (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
            (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
            (r"\.mlp\.up_proj\.", ".mlp.fc1."),
            (r"\.mlp\.down_proj\.", ".mlp.fc2."),
        ),
    ),
    Layout(
        "transformers",
        "stages.0.downsample_layers.0.weight",
        (
            (r"^stages\.0\.downsample_layers\.", "stem."),
            (r"^stages\.(\d+)\.downsample_layers\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"^layer_norm\.", "head.norm."),
            (r"\.layer_norm\.", ".norm."),
            (r"\.depthwise_conv\.", ".conv_dw."),
            (r"\.pointwise_conv([12])\.", r".mlp.fc\1."),
        ),
    ),
)

# Tensors that inference does not use or that the network computes itself.
UNUSED = re.compile(r"(?:^|\.)(?:mask_token|bias_mask|periods|num_batches_tracked|(?:local_cls_norm|norms)\..*)$")
# Parts that follow a backbone: classifiers, and poolings that timm keeps beside them.
_HEAD = re.compile(r"^(?:head|head_dist|fc|classifier|attn_pool|fc_norm)\.")

# What tells the DINOv3 networks apart: width, depth, gated feed-forward; width, depth of the third stage.
_VITS = {
    (192, 12, False): "dinov3_vitt16",
    (384, 12, False): "dinov3_vits16",
    (384, 12, True): "dinov3_vits16plus",
    (768, 12, False): "dinov3_vitb16",
    (1024, 24, False): "dinov3_vitl16",
    (1280, 32, True): "dinov3_vith16plus",
    (4096, 40, True): "dinov3_vit7b16",
}
_CONVNEXTS = {
    (96, 9): "dinov3_convnext_tiny",
    (96, 27): "dinov3_convnext_small",
    (128, 27): "dinov3_convnext_base",
    (192, 27): "dinov3_convnext_large",
}


def identify(state: Mapping[str, Tensor]) -> str | None:
    """The DINOv3 backbone that a state dict in timm's layout belongs to."""
    if "reg_token" in state:
        gated = any(".mlp.fc1_g." in key for key in state)
        return _VITS.get((state["reg_token"].shape[-1], _count(state, r"blocks\.(\d+)\."), gated))
    if "stem.0.weight" in state:
        return _CONVNEXTS.get((state["stem.0.weight"].shape[0], _count(state, r"stages\.2\.blocks\.(\d+)\.")))
    return None


def _count(keys: Iterable[str], pattern: str) -> int:
    return len({found[1] for key in keys if (found := re.match(pattern, key))})


def to_layout_of(target: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Find the layout of `tensors` and rename them as in `target`: (title of the layout, tensors)."""
    own = Layout("Meta" if "storage_tokens" in target else "timm", next(iter(target)), ())
    others = (layout for layout in LAYOUTS if layout.anchor not in target)
    for layout in (*others, own):
        prefixes = [key.removesuffix(layout.anchor) for key in tensors if key.endswith(layout.anchor)]
        prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
        if prefixes:
            break
    # Self-supervised training saves two networks; the teacher is the one to use.
    prefix = min(prefixes, default="", key=lambda prefix: ("student" in prefix, len(prefix)))
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    renamed = {}
    for key, value in tensors.items():
        for pattern, replacement in layout.rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    if layout.rules:
        renamed = _rearrange(renamed)
    return layout.title, {
        key: value
        for key, value in renamed.items()
        if not UNUSED.search(key) and (key in target or not _HEAD.match(key))
    }


def _rearrange(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Joins and splits tensors as timm's networks hold them: one qkv weight, q and v biases, no k bias."""
    result = {}
    gated = any(".mlp.fc1_g." in key for key in tensors)
    for key, value in tensors.items():
        if key.endswith(".attn.qkv.bias"):
            stem = key.removesuffix("qkv.bias")
            # The official network masks the k bias to zero.
            result[f"{stem}q_bias"], _, result[f"{stem}v_bias"] = value.chunk(3)
        elif key.endswith(".attention.q_proj.weight"):
            parts = [tensors[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            result[key.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif found := re.fullmatch(r"(.*)\.attention\.([qv])_proj\.bias", key):
            result[f"{found[1]}.attn.{found[2]}_bias"] = value
        elif gated and ".mlp.fc1." in key:
            result[key.replace(".mlp.fc1.", ".mlp.fc1_x.")] = value
        elif not re.search(r"\.attention\.[kv]_proj\.weight$", key):
            result[key] = value
    return result
