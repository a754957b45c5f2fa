"""Whether a run may be gone on with from a checkpoint: the same flags, classes and data, and something left to do."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_errors import DefectError
from dinov3.train.defect_guardrails import EarlyStopping

# Flags that may change from one part of a run to the next.
FREE = "config data_root save_dir resume init_from weights dinov3_repo epochs num_workers device mixed_precision lr"
FREE += " backbone_lr_scale weight_decay grad_clip save_every_minutes early_stop_patience early_stop_metric"
FREE += " max_skipped_batches layer_decay rest_norms mask_evidence grad_checkpointing compile auto_batch fsdp"


def check_same(
    content: dict[str, Any],
    source: Path,
    manifest: Manifest,
    args: argparse.Namespace,
    defaults: dict[str, Any],
    same_run: bool,
) -> None:
    """A checkpoint to start from must be of this architecture and these classes; one to go on from, of this run.

    A flag that is newer than the checkpoint had its value of ``defaults``.

    Raises:
        DefectError: it is not.
    """
    names = [n for n in vars(args) if n not in FREE.split()] if same_run else ["backbone", "decoder"]
    pairs = {f"--{name}": (content["config"].get(name, defaults[name]), getattr(args, name)) for name in names}
    pairs["classes"] = (content["classes"], manifest.classes)
    problems = [f"{name} was {old}, now {new}" for name, (old, new) in pairs.items() if old != new]
    if same_run and content["manifest"] != fingerprint(manifest):
        problems.append("the dataset has changed since, or is another one")
    if problems:
        raise DefectError(
            f"{source}: does not fit this run: {'; '.join(problems)}. "
            "Use the same flags and data, or another --save_dir"
        )


def what_is_complete(content: dict[str, Any], epochs: int, early_stopping: EarlyStopping) -> str:
    """Why there is nothing to go on with from a checkpoint; an empty text if there is. ``early_stopping`` takes its
    state over."""
    done = content["epoch"]
    if "early_stopping" in content:
        early_stopping.load_state_dict(content["early_stopping"])
    if done >= epochs:
        return f"{done} of {epochs} epochs done"
    return f"stopped after epoch {done}: {early_stopping}" if early_stopping.is_over(done) else ""


def fingerprint(manifest: Manifest) -> str:
    """What tells one dataset from another: a hash of its table."""
    return hashlib.sha256((manifest.root / "manifest.csv").read_bytes()).hexdigest()
