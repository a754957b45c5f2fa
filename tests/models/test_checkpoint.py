"""Checkpoint files: refused when broken or hostile, with the reason."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
import torch

from dinov3.defect_errors import DefectError
from dinov3.defect_evaluation.evaluate import View, evaluate, evaluation_loader
from dinov3.defect_evaluation.metrics import DefectMetrics
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_device import resolve_precision


class Hostile:
    """Unpickling runs a command."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, target = tmp_path / "model.pth", tmp_path / "ran"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Hostile(target)}))
    else:
        torch.save({"kind": "dinov3-defect-classifier", "model": Hostile(target)}, path)
    with pytest.raises(DefectError, match="model.pth"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>404</html>", b"PK\x03\x04 broken"])
def test_files_that_are_no_checkpoint_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(DefectError, match="model.pth.*not a checkpoint"):
        load_checkpoint(path)


def test_truncated_missing_and_foreign_files(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "last.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DefectError, match="cut.pth.*truncated"):
        load_checkpoint(path)
    with pytest.raises(DefectError, match="no such file"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(DefectError, match="a folder"):
        load_checkpoint(tmp_path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(DefectError, match="--weights"):
        load_checkpoint(path)


def test_weights_of_another_architecture_are_named(trained: Path) -> None:
    content = load_checkpoint(trained / "last.pth")
    content["config"]["decoder"] = "light"
    with pytest.raises(DefectError, match="last.pth.*don't fit.*missing decoder.project"):
        restore_model(content, trained / "last.pth")
    content = load_checkpoint(trained / "last.pth") | {"official": True}
    with pytest.raises(DefectError, match="--dinov3_repo"):
        restore_model(content, trained / "last.pth")


def test_a_checkpoint_loads_without_network_and_measures_as_in_training(trained: Path, squares, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    content = load_checkpoint(trained / "last.pth")
    model = restore_model(content, "last.pth")
    view, precision = View.of(content), resolve_precision("off", torch.device("cpu"))
    loader = evaluation_loader(squares.select("val"), view, 8, num_workers=0, device=precision.device)
    result = evaluate(model, loader, DefectMetrics(2), view, batch_size=8, precision=precision)
    for name in ("image_ap", "pixel_ap", "pixel_iou"):
        assert result[name] == pytest.approx(content["metrics"][name], abs=1e-6)
