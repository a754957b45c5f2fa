"""The folder of a training: for one process, and without other people's files in the way."""

from __future__ import annotations

from pathlib import Path

from dinov3.defect_folder_kinds import expect_no_dataset, expect_none_of
from dinov3.defect_folders import FolderLock
from dinov3.train.defect_checkpointer import BEST
from dinov3.train.defect_config import CONFIG, MARK


def lock_run(save_dir: Path) -> FolderLock:
    """Keep ``save_dir`` for a training; a context.

    Raises:
        DefectError: it is or lies in a dataset, or has files that a training would replace and none has made.
    """
    expect_no_dataset(save_dir, "--save_dir")
    if not (save_dir / "last.pth").exists() and not _is_ours(save_dir / CONFIG):
        pictures = (f"{name}.png" for name in "curves pr roc pixel_pr pro confusion worst".split())
        names = (CONFIG, "metrics.jsonl", "report.html", "tensorboard", *BEST, *pictures)
        expect_none_of(save_dir, names, "--save_dir", "training")
    return FolderLock(save_dir, "train_defect_model.py", "--save_dir")


def _is_ours(path: Path) -> bool:
    """Whether a run that was killed before its first checkpoint wrote this."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline() == MARK
    except OSError:
        return False
