"""Reads backbone weights from local files in Meta's, timm's or transformers' layout, told apart by keys.

Files may hold tensors only: no code is ever run from one.
"""

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from dinov3.defect_errors import DefectError
from dinov3.models.defect_torch_files import read_torch_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class _Layout(NamedTuple):
    """How another project names the tensors of a network; `rules` rename them, in order, to timm's names."""

    title: str
    anchor: str  # a key that only this layout has; what stands before it is a wrapper's prefix
    rules: tuple[tuple[str, str], ...]


_LAYOUTS = (
    _Layout(
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
    _Layout(
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
    _Layout(
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
    _Layout(
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

# Training wrappers (DDP, torch.compile, transformers) whose names may stand anywhere in a key.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|model|_orig_mod)\.")
# Tensors that inference does not use or that the network computes itself.
_UNUSED = re.compile(r"(?:^|\.)(?:mask_token|bias_mask|periods|num_batches_tracked|(?:local_cls_norm|norms)\..*)$")
# Parts that follow a backbone: classifiers, and poolings that timm keeps beside them.
_HEAD = re.compile(r"^(?:head|head_dist|fc|classifier|attn_pool|fc_norm)\.")
_BIAS = re.compile(r"\.attn\.[qv]_bias$")

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


def load_weights(backbone: nn.Module, path: str | Path) -> str:
    """Load a weights file into `backbone`, in place; every tensor must find its place.

    A file without q and v biases (of timm's networks without ``qkvb``, or of transformers) loads with zeros
    there, which computes the same. A patch embedding of another size is resampled (FlexiViT, arXiv
    2212.08013).

    Args:
        backbone: from `defect_backbone.build_backbone`, or an official module (Meta's layout only).
        path: a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file, a ``.index.json`` of shards, or a folder
            with exactly one of these. A dict around the weights (``model``, ``teacher``) is unwrapped.

    Returns:
        One line that tells what was loaded.

    Raises:
        DefectError: no such file, a damaged file, one that holds code, or tensors that do not fit.
    """
    network = getattr(backbone, "network", backbone)
    target = {key: value for key, value in network.state_dict().items() if not _UNUSED.search(key)}
    title, state = _to_layout_of(target, _flatten(_read(Path(path).expanduser()), path))
    notes = []

    biases = [key for key in target if _BIAS.search(key)]
    if biases and not any(key in state for key in biases):
        state |= {key: torch.zeros(target[key].shape) for key in biases}
        notes.append("q and v biases zero, as the file has none")

    projection = "patch_embed.proj.weight"
    if projection in state and projection in target:
        size, wanted = state[projection].shape, target[projection].shape
        if size != wanted and len(size) == 4 and size[:2] == wanted[:2]:
            state[projection] = resample_patch_embed(state[projection].float(), list(wanted[2:]))
            notes.append(f"patch embedding resampled from {size[-1]} to {wanted[-1]} pixels")

    _check_fit(target, state, f"weights file {path} ({title} layout)", getattr(backbone, "name", "this backbone"))
    network.load_state_dict(state, strict=False)
    return "; ".join([f"{Path(path).name}: {len(state)} tensors, {title} layout", *notes])


def _check_fit(target: Mapping[str, Tensor], state: Mapping[str, Tensor], file: str, name: str) -> None:
    missing = [key for key in target if key not in state]
    surplus = [key for key in state if key not in target]
    reshaped = [
        f"{key} {tuple(value.shape)}, not {tuple(target[key].shape)}"
        for key, value in state.items()
        if key in target and value.shape != target[key].shape
    ]
    floats = [key for key in state if key in target and target[key].is_floating_point()]
    whole = [key for key in floats if not state[key].is_floating_point()]
    broken = [key for key in floats if key not in whole and not state[key].isfinite().all()]
    found_wrong = {"missing": missing, "surplus": surplus, "of another shape": reshaped}
    found_wrong |= {"of whole numbers": whole, "not finite": broken}
    problems = [
        f"{len(found)} {what}: {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}"
        for what, found in found_wrong.items()
        if found
    ]
    if problems:
        fits = _identify(state)
        hint = f" The file holds {fits}: use --backbone {fits}." if fits and fits != name else ""
        raise DefectError(f"{file} does not fit {name}. Tensors {'; '.join(problems)}.{hint}")


def _identify(state: Mapping[str, Tensor]) -> str | None:
    """The DINOv3 backbone that a state dict in timm's layout belongs to."""
    if "reg_token" in state:
        gated = any(".mlp.fc1_g." in key for key in state)
        return _VITS.get((state["reg_token"].shape[-1], _count(state, r"blocks\.(\d+)\."), gated))
    if "stem.0.weight" in state:
        return _CONVNEXTS.get((state["stem.0.weight"].shape[0], _count(state, r"stages\.2\.blocks\.(\d+)\.")))
    return None


def _count(keys: Iterable[str], pattern: str) -> int:
    return len({found[1] for key in keys if (found := re.match(pattern, key))})


def _flatten(tree: Mapping, path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Nested dicts as one, keys joined by dots; whatever is no tensor is left out."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found = _flatten(value, path, f"{prefix}{key}.")
        else:
            found = {_WRAPPER.sub("", f"{prefix}{key}"): value} if isinstance(value, Tensor) else {}
        if twice := flat.keys() & found.keys():
            raise DefectError(f"weights file {path}: {min(twice)} is in it twice, the second time under {prefix}{key}")
        flat |= found
    return flat


def _to_layout_of(target: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Find the layout of `tensors` and rename them as in `target`: (title of the layout, tensors)."""
    own = _Layout("Meta" if "storage_tokens" in target else "timm", next(iter(target)), ())
    others = (layout for layout in _LAYOUTS if layout.anchor not in target)
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
        if not _UNUSED.search(key) and (key in target or not _HEAD.match(key))
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


def _read(path: Path) -> Mapping[str, Any]:
    """Read a file, the shards of an index, or the one of these in a folder."""
    if path.is_dir():
        path = _only_weights_in(path)
    content = _read_file(path)
    if path.suffix == ".json":
        shards = _shards_of(content, path)
        parts = [_read_file(path.with_name(Path(shard).name)) for shard in shards]
        content = {key: value for part in parts for key, value in part.items()}
    return content


def _shards_of(index: Mapping[str, Any], path: Path) -> list[str]:
    """The files beside an index in which its tensors are."""
    places = index.get("weight_map")
    files = list(places.values()) if isinstance(places, Mapping) else []
    if not files or not all(isinstance(file, str) and Path(file).name for file in files):
        raise DefectError(
            f"weights index {path}: expected a weight_map of tensor names to file names beside it; "
            "copy or download it again"
        )
    return sorted(set(files))


def _only_weights_in(folder: Path) -> Path:
    indexes = sorted(folder.glob("*.index.json"))
    found = indexes or sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DefectError(
            f"folder {folder} must hold exactly one weights file ({', '.join(SUFFIXES)}) to be used as "
            f"--weights; found: {names}. Name the file itself."
        )
    return found[0]


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DefectError(f"weights file not found: {path}. Pass an existing file, 'default' or 'none'.")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise DefectError(f"weights file {path} is empty (0 bytes). Copy or download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise DefectError(
            f"{path} is a git-lfs pointer of {path.stat().st_size} bytes, not the weights. "
            "Run 'git lfs pull' where it was cloned, or download the file itself."
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        raise DefectError(
            f"{path} is a web page, not weights: the download needs a login or a fresh link. Download it again."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = read_torch_file(path, mmap=True)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        raise _unreadable(path, head, error) from error
    if not isinstance(content, Mapping):
        raise DefectError(f"{path} holds a {type(content).__name__}, expected a dict of named tensors.")
    return content


def _unreadable(path: Path, head: bytes, error: Exception) -> DefectError:
    found = re.search(r"GLOBAL ([\w.]+)|(TorchScript)", str(error))
    # 0x80 opens a pickle that torch.save did not write.
    if found or (isinstance(error, pickle.UnpicklingError) and head[:1] == b"\x80"):
        what = found[1] or found[2] if found else "a pickle of Python objects"
        return DefectError(
            f"{path} was refused: it holds more than tensors ({what}), and reading that would run code from "
            "the file. If you trust its source, save the tensors alone: "
            "torch.save(model.state_dict(), 'weights.pth')."
        )
    return DefectError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as weights: it is damaged, incomplete or of "
        f"another kind ({type(error).__name__}). Compare its size with the source and download it again."
    )
