"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinov3._official import load_official_backbone
from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_checkpoint_fields import check_fields, not_finite
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_novelty import Novelty
from dinov3.models.defect_torch_files import read_torch_file
from dinov3.models.defect_tta import FlipAugmented

# Version 1 called ``score_fusion`` and ``freeze_batch_norm`` of its ``config`` ``mask_evidence`` and ``rest_norms``.
FORMAT_VERSION = 2
KIND = "dinov3-defect-classifier"
REMEDY = "Free disk space, then run the same command again"


def save_checkpoint(path: Path, content: dict[str, Any], remedy: str = REMEDY) -> None:
    """Write ``content`` (tensors and plain types) to ``path`` atomically.

    It goes to a temporary file in the same folder, is flushed to the disk, and renamed; on any failure the old file
    stays as it was. So there are two copies at most, the old and the new one.

    Raises:
        DefectError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"kind": KIND, "format_version": FORMAT_VERSION} | content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its own, raised on top of the reason.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = cause.strerror if isinstance(cause, OSError) else str(cause).splitlines()[0]
        temporary.unlink(missing_ok=True)
        raise DefectError(
            f"{path}: the checkpoint could not be written ({reason}); the previous one is intact. {remedy}"
        ) from None


def _flush_folder(folder: Path) -> None:
    """Let a new name in ``folder`` survive a power cut, too, where the system can do that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        DefectError: missing, truncated, changed since it was written, not a checkpoint of this project, of a newer
            format, holding code, or with a field that no training writes.
    """
    path = Path(path)
    if not path.is_file():
        raise DefectError(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}; expected a checkpoint "
            "(.pth) that train_defect_model.py wrote"
        )
    try:
        content = read_torch_file(path)
    except pickle.UnpicklingError:
        refused = zipfile.is_zipfile(path)
        reason = (
            "holds objects other than tensors and plain values, so it was refused" if refused else "not a checkpoint"
        )
        raise DefectError(f"{path}: {reason}; expected a file that train_defect_model.py wrote") from None
    except OSError as error:
        raise DefectError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DefectError(
            f"{path}: damaged, truncated or not a checkpoint ({reason}); copy it again or use another"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DefectError(
            f"{path}: not a checkpoint of this project (backbone weights go to --weights); expected a file "
            "that train_defect_model.py wrote"
        )
    version = content.get("format_version")
    if version not in (1, FORMAT_VERSION):
        raise DefectError(f"{path}: format version {version!r}; this version reads 1 to {FORMAT_VERSION}; update")
    check_fields(content, path)
    return content


def load_model_state(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load strictly.

    Raises:
        DefectError: keys are missing, surplus or of another shape, or weights are not finite; they are named.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"surplus {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems += [
        f"{key} is {state[key].dtype}, expected {own[key].dtype}"
        for key in own
        if key in state and state[key].is_floating_point() != own[key].is_floating_point()
    ]
    if problems:
        shown = "; ".join(problems[:4])
        raise DefectError(
            f"{source}: its weights don't fit this model ({len(problems)} differences: {shown}); "
            "use the backbone, decoder and classes it was trained with"
        )
    model.load_state_dict(state)
    broken = not_finite(own)  # as the model has it: what is finite in float64 may be infinite in float32
    if broken:
        raise DefectError(
            f"{source}: {len(broken)} of its tensors are not finite (first {broken[0]}): the training went wrong, or "
            "the file was changed; use another checkpoint"
        )


def restore_model(content: dict[str, Any], source: Path | str, dinov3_repo: Path | None = None) -> nn.Module:
    """The model of a checkpoint, in eval mode on the CPU; nothing is downloaded. If the checkpoint says so, what is
    unlike any good part counts (``novelty``), and answers are the mean over an image's mirror images (``flips``).

    Args:
        content: from :func:`load_checkpoint`.
        source: its path, for messages.
        dinov3_repo: the official checkout, needed if the model was trained on a backbone from one.
    """
    name = content["backbone"]
    if content.get("official", False):
        if dinov3_repo is None:
            raise DefectError(f"{source}: trained on {name} from an official DINOv3 checkout; add --dinov3_repo DIR")
        backbone = load_official_backbone(dinov3_repo, name, "none")
    else:
        _expect_room(name, content["model"], source)
        backbone = build_backbone(name, "none")
    config = content["config"]
    model = AttentionGuidedDefectClassifier(
        backbone,
        backbone.embed_dim,
        len(content["classes"]),
        len(content["mask_classes"]),
        config["dropout"],
        decoder=config["decoder"],
        guidance=config["guidance"],
        # the oldest have neither key, and the classifier's verdict alone
        score_fusion=config.get("score_fusion", config.get("mask_evidence", False)),
    )
    load_model_state(model, content["model"], source)
    if content.get("novelty") is not None:
        model.novelty = Novelty(len(content["novelty"]["mean"]))
        model.novelty.load_state_dict(content["novelty"])
    return (FlipAugmented(model) if content.get("flips", False) else model).eval()


def _expect_room(name: str, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Refuse a backbone of many times the weights that the file holds before the memory is taken for it.

    Raises:
        DefectError: the file has fewer than half of its weights.
    """
    found = sum(value.numel() for key, value in state.items() if key.startswith("backbone."))
    if found < _weights_of(name) / 2:
        raise DefectError(
            f"{source}: its weights don't fit this model: backbone {name} has {_weights_of(name):,} values, the file "
            f"{found:,}; use another checkpoint"
        )


@functools.cache
def _weights_of(name: str) -> int:
    """How many values a backbone has; built without memory for them."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # it is built again, and then says what there is to say
        return sum(value.numel() for value in build_backbone(name, "none").state_dict().values())
