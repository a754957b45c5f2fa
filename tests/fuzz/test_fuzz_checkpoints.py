"""Reading checkpoints: what is damaged or out of range is refused, and code in them never runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from helpers.fuzzing import BYTE_EDITS, TREE_EDITS, edited_bytes, edited_tree, fuzz

from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint import load_checkpoint, save_checkpoint
from dinov3.models.defect_checkpoint_fields import not_finite
from dinov3.models.defect_field_checks import UNREACHABLE

CONTENT = {
    "model": {"weight": torch.ones(3, 4), "count": torch.tensor(2)},
    "config": {"dropout": 0.2, "decoder": "multiscale", "guidance": "mask"},
    "backbone": "dinov3_vitt16",
    "classes": ["normal", "defect"],
    "mask_classes": ["defect"],
    "image_size": 32,
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "thresholds": {"classification": 0.5, "mask": 0.5, "review": 0.25, "temperature": 1.5},
    "calibration": {
        "images": 10,
        "defects": 5,
        "parts": 5,
        "ece_before": 0.25,
        "ece_after": 0.125,
        "target_values": {"cost_miss": 5, "cost_overkill": 1},
    },
}


def loads(path: Path) -> None:
    try:
        content = load_checkpoint(path)
    except DefectError as error:
        assert str(error).startswith(str(path)) and len(str(error)) < 1000
        return
    assert not not_finite(content["model"])
    thresholds = content["thresholds"]
    assert all(0 <= thresholds[name] <= UNREACHABLE for name in ("classification", "mask"))
    assert len(set(content["classes"])) == len(content["classes"]) > 1


def test_damaged_checkpoint(tmp_path: Path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, CONTENT)
    data = path.read_bytes()

    def target(edits):
        changed = edited_bytes(data, edits)
        path.write_bytes(changed)
        loads(path)

    fuzz(target, BYTE_EDITS, examples=24)


def test_damaged_pickle_with_the_right_checksum(tmp_path: Path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, CONTENT)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))

    def target(edits):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for record, data in (records | {name: edited_bytes(records[name], edits)}).items():
                archive.writestr(record, data)
        path.write_bytes(buffer.getvalue())
        loads(path)

    fuzz(target, BYTE_EDITS, examples=24)


def test_checkpoint_of_other_values(tmp_path: Path):
    path = tmp_path / "a.pth"

    def target(edits):
        changed = edited_tree(CONTENT, edits)
        if not isinstance(changed, dict):
            return
        save_checkpoint(path, changed)
        loads(path)

    fuzz(target, TREE_EDITS, examples=24)
