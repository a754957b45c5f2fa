"""Compilation, defaults that follow the backbone, and flags that don't go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TRAIN_FLAGS
from helpers.networks import build_model
from timm.layers import DropPath
from torch import Tensor

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_cli import make_parser, parse
from dinov3.defect_distributed import AsyncScalar
from dinov3.defect_errors import DefectError
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier
from dinov3.models.defect_device import compile_model
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_ema import ModelEma
from dinov3.train.defect_finetune import prepare_backbone, resolve

CPU = torch.device("cpu")


def flags(data: Manifest, save_dir: Path, *more: object) -> list[object]:
    return ["--data_root", data.root, "--save_dir", save_dir, *TRAIN_FLAGS, *more]


# --- compilation, numbers read one step later


def test_a_compiled_model_predicts_the_same_and_keeps_its_names() -> None:
    model = AttentionGuidedDefectClassifier(build_model("official").backbone, 16, decoder="light").eval()
    images, names = torch.rand(2, 3, 32, 32), list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        try:
            compile_model(model, CPU)
        except DefectError as error:
            pytest.skip(str(error))
        for key, value in model(images).items():
            torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-5)
    assert list(model.state_dict()) == names
    assert list(ModelEma(model, 0.9).module.state_dict()) == names


def test_a_compiler_that_is_missing_is_named(monkeypatch) -> None:
    def fail(tensor: Tensor) -> Tensor:
        raise RuntimeError("no working C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda function: fail)
    with pytest.raises(DefectError, match=r"--compile: .*\(no working C\+\+ compiler\).*leave --compile out"):
        compile_model(build_model("official"), CPU)


def test_an_asynchronous_value_is_the_one_before() -> None:
    shown = AsyncScalar()
    assert [shown.exchange(torch.tensor(value)) for value in (1.0, 2.0, 3.0)] == [None, 1.0, 2.0]


# --- flags


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--lora_rank", 4, "--freeze_backbone"), "leave --freeze_backbone out"),
        (("--lora_rank", 4, "--unfreeze_last", 2), "leave --unfreeze_last out"),
        (("--unfreeze_last", 99), "this backbone has 6 layers"),
        (("--mixed_precision", "tf32"), "only CUDA devices"),
        (("--auto_batch",), "--auto_batch needs a CUDA device"),
    ],
)
def test_flags_that_do_not_fit_are_named(squares: Manifest, tmp_path: Path, script, more, message: str) -> None:
    status, _, err = script("train_defect_model", *flags(squares, tmp_path / "run", "--epochs", 1, *more))
    assert status == 1 and message in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("dinov3_vitt16", (), (0.1, 0.8, False, True)),
        ("dinov3_vitt16", ("--weights", "none"), (0.1, 1.0, False, False)),
        ("dinov3_vitt16", ("--weights", "none", "--init_from", "stage1.pth"), (0.1, 0.8, False, False)),
        ("dinov3_vitt16", ("--lora_rank", 2), (1.0, 1.0, False, True)),
        ("dinov3_vitt16", ("--layer_decay", 0.7, "--grad_checkpointing"), (0.1, 0.7, True, True)),
        ("efficientnet_lite0", ("--drop_path", 0.2), (0.2, 1.0, False, True)),
    ],
)
def test_defaults_follow_the_backbone(name: str, more, expected) -> None:
    if "--lora_rank" in more:
        pytest.importorskip("peft", reason="peft is not installed")
    flags = [str(a) for a in ("--data_root", "x", *more)]
    model = build_model(name)
    config = resolve(parse(TrainConfig, make_parser(TrainConfig, None), flags), model.backbone, has_masks=True)
    prepare_backbone(model, config)
    found = (config.backbone_lr_scale, config.layer_decay, config.grad_checkpointing, config.freeze_batch_norm)
    assert found == expected and config.score_fusion
    assert any(isinstance(m, DropPath) for m in model.modules()) == ("--drop_path" in more)
    assert getattr(model.backbone.network, "grad_checkpointing", False) == expected[2]
