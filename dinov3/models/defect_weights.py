"""Reads backbone weights from local files in Meta's, timm's or transformers' layout, told apart by keys.

Files may hold tensors only: no code is ever run from one.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from dinov3.defect_errors import DefectError
from dinov3.models.defect_torch_files import read_torch_file
from dinov3.models.defect_weight_layouts import UNUSED, identify, to_layout_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Training wrappers (DDP, torch.compile, transformers) whose names may stand anywhere in a key.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|model|_orig_mod)\.")
_BIAS = re.compile(r"\.attn\.[qv]_bias$")


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
    target = {key: value for key, value in network.state_dict().items() if not UNUSED.search(key)}
    title, state = to_layout_of(target, _flatten(_read(Path(path).expanduser()), path))
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
        fits = identify(state)
        hint = f" The file holds {fits}: use --backbone {fits}." if fits and fits != name else ""
        raise DefectError(f"{file} does not fit {name}. Tensors {'; '.join(problems)}.{hint}")


def _flatten(tree: Mapping, path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Nested dicts as one, keys joined by dots; whatever is no tensor is skipped."""
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
