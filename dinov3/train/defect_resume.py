"""Where a run starts from: anew, from the weights of another run (--init_from), or where it was interrupted
(--resume), if flags, classes and data are still the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_cli import with_today_names
from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_checkpoint_fields import restoring
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_guardrails import EarlyStopping

# Settings that may change from one part of a run to the next.
FREE = "data_root save_dir resume init_from weights dinov3_repo epochs num_workers device mixed_precision lr"
FREE += " backbone_lr_scale weight_decay grad_clip save_every_minutes early_stop_patience early_stop_metric"
FREE += " max_skipped_batches layer_decay freeze_batch_norm score_fusion grad_checkpointing compile auto_batch fsdp"
FOUND = ("batch_size", "accumulate")  # what --auto_batch found stays as it is


@dataclass(frozen=True)
class Start:
    """Where a run starts from.

    Attributes:
        resumed: the run's own checkpoint to go on from.
        weights: the checkpoint of the stage before; at most one of the two is there.
        complete: why there is nothing left to do; empty if there is.
    """

    resumed: dict[str, Any] | None = None
    weights: dict[str, Any] | None = None
    complete: str = ""

    @property
    def is_new(self) -> bool:
        """Whether the backbone's own weights are needed."""
        return self.resumed is None and self.weights is None


def find_start(config: TrainConfig, manifest: Manifest) -> Start:
    """Where the run of ``config`` on this dataset starts.

    Raises:
        DefectError: an earlier run is in the way, or the checkpoint does not fit this run.
    """
    if config.last.is_file():
        if not config.resume:
            raise DefectError(
                f"{config.last}: an earlier run is in --save_dir; add --resume to go on, or choose another folder"
            )
        content = load_checkpoint(config.last)
        with restoring(config.last):
            _check_same(content, config.last, manifest, config, same_run=True)
            return Start(resumed=content, complete=_what_is_complete(content, config))
    if config.init_from is None:
        return Start()
    content = load_checkpoint(config.init_from)
    if content.get("progress") is not None:
        raise DefectError(
            f"--init_from {config.init_from}: that run was interrupted in epoch {content.get('epoch', 0) + 1} of "
            f"{content['config'].get('epochs', '?')}; let it go on with --resume first, or start from its best_iou.pth"
        )
    _check_same(content, config.init_from, manifest, config, same_run=False)
    return Start(weights=content)


def _check_same(content: dict[str, Any], source: Path, manifest: Manifest, config: TrainConfig, same_run: bool) -> None:
    """A checkpoint to start from must be of this architecture and these classes; one to go on from, of this run."""
    now, before = config.record(), with_today_names(TrainConfig, content["config"])
    free = {*FREE.split(), *(FOUND if config.auto_batch else ())}
    names = [name for name in now if name not in free] if same_run else ["backbone", "decoder"]
    pairs = {f"--{name}": (before[name], now[name]) for name in names}
    pairs["classes"] = (content["classes"], manifest.classes)
    problems = [f"{name} was {_shown(old)}, now {_shown(new)}" for name, (old, new) in pairs.items() if old != new]
    if same_run and content["manifest"] != fingerprint(manifest):
        problems.append("the dataset has changed since, or is another one")
    if problems:
        raise DefectError(
            f"{source}: does not fit this run: {'; '.join(problems)}. "
            "Use the same flags and data, or another --save_dir"
        )


def _shown(value: Any) -> Any:
    """As on the command line, where it is two numbers."""
    return " ".join(map(str, value)) if isinstance(value, list) and all(isinstance(v, int) for v in value) else value


def _what_is_complete(content: dict[str, Any], config: TrainConfig) -> str:
    done, stopping = content["epoch"], EarlyStopping(config.early_stop_metric, config.early_stop_patience)
    if "early_stopping" in content:
        stopping.load_state_dict(content["early_stopping"])
    if done >= config.epochs:
        return f"{done} of {config.epochs} epochs done"
    return f"stopped after epoch {done}: {stopping}" if stopping.is_over(done) else ""


def fingerprint(manifest: Manifest) -> str:
    """What tells one dataset from another: a hash of its table."""
    return hashlib.sha256((manifest.root / "manifest.csv").read_bytes()).hexdigest()
