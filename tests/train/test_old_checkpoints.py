"""Checkpoints of format 1, which named some settings otherwise, still answer, go on, and start another stage."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_squares

from dinov3.models.defect_checkpoint import load_checkpoint, restore_model

pytestmark = pytest.mark.usefixtures("undrawn")
FILES = ROOT / "tests/files/checkpoint_format_1"
EXPECTED = json.loads((FILES / "expected.json").read_text())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The ``last.pth`` of a run that the last version with format 1 (commit f443c32) left behind.

    Made by that version on the CPU, in one thread: on ``write_squares(train=12, val=4, test=2)``, with the flags in
    ``config.yaml`` (averaged weights, accumulated gradients, learned loss weights), it was stopped by SIGTERM after 4
    of the 6 batches of epoch 2. To be small in the repository, its weights were then thinned out: of each matrix the
    largest 15% became the same value with their signs and the others 0; of the first moments, 2%; each second moment
    became its mean. ``expected.json`` is what the same version answers with this file, and how it goes on from it.
    """
    path = tmp_path / "run/last.pth"
    path.parent.mkdir()
    path.write_bytes(lzma.decompress((FILES / "last.pth.xz").read_bytes()))
    return path


def test_the_model_answers_as_it_did(old: Path) -> None:
    model = restore_model(load_checkpoint(old), old)
    images = torch.linspace(-2, 2, 2 * 3 * 40 * 48).reshape(2, 3, 40, 48).sin() * 2
    with torch.no_grad():
        outputs = model(images)
    assert model.score_fusion is EXPECTED["mask_evidence"] is True
    torch.testing.assert_close(outputs["classification"], torch.tensor(EXPECTED["classification"]))
    masks = outputs["segmentation"]
    torch.testing.assert_close(masks.mean((1, 2, 3)), torch.tensor(EXPECTED["mask_mean"]))
    torch.testing.assert_close(masks.amax((1, 2, 3)), torch.tensor(EXPECTED["mask_max"]))


def test_the_run_goes_on_within_its_epoch_as_it_would_have(old: Path, tmp_path: Path, script) -> None:
    data = write_squares(tmp_path / "data", train=12, val=4, test=2)
    place = ("--data_root", data.root, "--save_dir", old.parent)
    status, out, err = script("train_defect_model", "--config", FILES / "config.yaml", *place, "--resume")
    assert status == 0, err
    (line,) = (json.loads(text) for text in (old.parent / "metrics.jsonl").read_text().splitlines())
    assert line["epoch"] == 2
    for name, value in EXPECTED["epoch_2"].items():
        assert line[name] == pytest.approx(value, rel=1e-4), name
    content = load_checkpoint(old)
    weights = {"trained": "model", "averaged": "average"}
    for name, part in weights.items():
        norm = content["training_state"][part]["classifier.1.weight"].double().norm().item()
        assert norm == pytest.approx(EXPECTED["weights"][name], rel=1e-5), name
    assert (content["config"]["score_fusion"], content["config"]["freeze_batch_norm"]) == (True, True)
    assert not {"mask_evidence", "rest_norms"} & set(content["config"])


def test_the_next_stage_starts_from_it(old: Path, tmp_path: Path, script) -> None:
    """After its last epoch a run's file is the same, but for the progress within an epoch."""
    data = write_squares(tmp_path / "data", train=4, val=2, test=2)
    content = torch.load(old, weights_only=True)
    torch.save(content | {"progress": None}, old)
    flags = "--backbone timm:test_efficientnet --weights none --decoder light --image_size 32 --batch_size 2 --lr 0"
    flags += " --num_workers 0 --device cpu --epochs 1"
    place = ("--data_root", data.root, "--save_dir", tmp_path / "next", "--init_from", old)
    assert script("train_defect_model", *place, *flags.split())[0] == 0
    weights = load_checkpoint(tmp_path / "next/last.pth")["model"]
    assert torch.equal(weights["classifier.1.weight"], content["model"]["classifier.1.weight"])
