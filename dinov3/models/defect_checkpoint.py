"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dinov3._official import load_official_backbone
from dinov3.defect_errors import DefectError
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_novelty import Novelty
from dinov3.models.defect_tta import FlipAveraged

FORMAT_VERSION = 1
KIND = "dinov3-defect-classifier"
REQUIRED = (
    "model",
    "config",
    "backbone",
    "classes",
    "mask_classes",
    "image_size",
    "normalization",
    "thresholds",
)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
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
            f"{path}: the checkpoint could not be written ({reason}); the previous one is intact. "
            "Free disk space or choose another --save_dir, then continue with --resume"
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
        DefectError: missing, truncated, not a checkpoint of this project, of a newer format, or holding code.
    """
    path = Path(path)
    if not path.is_file():
        raise DefectError(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}; expected a checkpoint "
            "(.pth) that train_defect_model.py wrote"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        refused = zipfile.is_zipfile(path)
        reason = (
            "holds objects other than tensors and plain values, so it was refused" if refused else "not a checkpoint"
        )
        raise DefectError(f"{path}: {reason}; expected a file that train_defect_model.py wrote") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DefectError(f"{path}: truncated or not a checkpoint ({reason}); copy it again or use another") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DefectError(
            f"{path}: not a checkpoint of this project (backbone weights go to --weights); expected a file "
            "that train_defect_model.py wrote"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise DefectError(
            f"{path}: format version {content['format_version']}; this version reads {FORMAT_VERSION}; update"
        )
    missing = [name for name in REQUIRED if name not in content]
    if missing:
        raise DefectError(f"{path}: incomplete, {', '.join(missing)} missing; use another checkpoint")
    return content


def load_model_state(model: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load strictly; DefectError names the keys that are missing, surplus or of another shape."""
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"surplus {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:4])
        raise DefectError(
            f"{source}: its weights don't fit this model ({len(problems)} differences: {shown}); "
            "use the backbone, decoder and classes it was trained with"
        )
    model.load_state_dict(state)


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
        score_fusion=config.get("mask_evidence", False),  # older ones have the class head's verdict
    )
    load_model_state(model, content["model"], source)
    if content.get("novelty") is not None:
        model.novelty = Novelty(len(content["novelty"]["mean"]))
        model.novelty.load_state_dict(content["novelty"])
    return (FlipAveraged(model) if content.get("flips", False) else model).eval()
