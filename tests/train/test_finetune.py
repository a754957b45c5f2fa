"""Fine-tuning: adapters, averaged weights, accumulated gradients, frozen BatchNorm."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import TRAIN_FLAGS
from helpers.networks import build_model
from torch import Tensor, nn

import dinov3.train.train_defect_classifier as loop
from dinov3.data.defect_manifest import Manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_distributed import World
from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint import load_checkpoint
from dinov3.models.defect_classifier import MultiTaskLoss
from dinov3.models.defect_device import resolve_precision
from dinov3.models.defect_lora import add_lora, merged_state
from dinov3.train import defect_state
from dinov3.train.defect_checkpointer import Checkpointer
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_ema import ModelEma
from dinov3.train.defect_state import TrainState
from dinov3.train.defect_step import TrainStep

pytestmark = pytest.mark.usefixtures("undrawn")
CPU = torch.device("cpu")


def flags(data: Manifest, save_dir: Path, *more: object) -> list[object]:
    return ["--data_root", data.root, "--save_dir", save_dir, *TRAIN_FLAGS, *more]


# --- adapters


@pytest.mark.parametrize("name", ["dinov3_vitt16", "dinov3_convnext_tiny", "efficientnet_lite0"])
def test_adapters_are_few_start_at_zero_and_merge(name: str) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    model = build_model(name).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for key, parameter in model.backbone.named_parameters():
            if "gamma" in key:
                parameter.fill_(0.5)  # else a block at its start changes next to nothing
        keys, before = list(model.state_dict()), model(images)
        whole = sum(p.numel() for p in model.backbone.parameters())
        add_lora(model.backbone, 4)
        for key, value in model(images).items():
            torch.testing.assert_close(value, before[key], atol=1e-5, rtol=1e-5)
        trained = {key: p for key, p in model.backbone.named_parameters() if p.requires_grad}
        assert all(".lora_" in key for key in trained)
        assert 0 < sum(p.numel() for p in trained.values()) < 0.05 * whole
        assert all(p.requires_grad for p in model.decoder.parameters())
        for parameter in trained.values():
            nn.init.normal_(parameter, std=0.1)
        adapted, plain = model(images), build_model(name).eval()
        assert (adapted["classification"] - before["classification"]).abs().max() > 1e-3
        assert set(merged_state(model)) == set(keys)
        plain.load_state_dict(merged_state(model))
        for key, value in plain(images).items():
            torch.testing.assert_close(value, adapted[key], atol=1e-4, rtol=1e-4)
    # each of them learns: none is passed by
    model.train()
    outputs = model(images)
    (outputs["classification"].sum() + outputs["segmentation"].sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())


def test_adapters_that_cannot_be_had(monkeypatch) -> None:
    with pytest.raises(DefectError, match="no linear layers"):
        pytest.importorskip("peft", reason="peft is not installed")
        add_lora(nn.Conv2d(3, 4, 3), 4)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DefectError, match="pip install peft"):
        add_lora(nn.Linear(2, 2), 4)


# --- averaged weights


def test_the_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].requires_grad_(False)
    weights = ModelEma(model, decay=0.5)
    average = weights.module
    expected = 0.0
    # the decay at updates 1, 2, 3, 4: 1 - N ** (-2 / 3), up to 0.5
    for number, (weight, decay) in enumerate(((3.0, 0.0), (5.0, 0.37004), (7.0, 0.5), (9.0, 0.5)), start=1):
        nn.init.constant_(model[0].weight, weight)
        weights.update(number, torch.tensor(False))
        expected = decay * expected + (1 - decay) * weight
        assert average[0].weight.item() == pytest.approx(expected, abs=1e-4)
    assert model[0].weight.item() == 9.0
    assert average[1].weight.data_ptr() == model[1].weight.data_ptr()  # frozen weights are not held twice


@pytest.mark.parametrize("adapters", [False, True])
def test_average_and_adapters_go_on_after_an_interruption_and_the_best_are_what_was_evaluated(
    squares: Manifest, tmp_path: Path, script, monkeypatch, adapters: bool
) -> None:
    more = ["--epochs", 2, "--ema_decay", 0.9, "--accumulate", 2, "--drop_path", 0.1]
    if adapters:
        pytest.importorskip("peft", reason="peft is not installed")
        more += ["--lora_rank", 2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert script("train_defect_model", *flags(squares, whole, *more))[0] == 0
    to_device, calls = loop.to_device, iter(range(100))

    def stop_at_fourth(*args: object) -> tuple[Tensor, ...]:
        if next(calls) == 3:  # of three an epoch: the first of an update of two
            os.kill(os.getpid(), signal.SIGTERM)
        return to_device(*args)

    monkeypatch.setattr(loop, "to_device", stop_at_fourth)
    assert script("train_defect_model", *flags(squares, broken, *more))[0] == 128 + signal.SIGTERM
    stopped = load_checkpoint(broken / "last.pth")
    assert (stopped["epoch"], stopped["progress"][0]["batches"]) == (1, 2)  # the update was finished
    monkeypatch.setattr(loop, "to_device", to_device)
    assert script("train_defect_model", *flags(squares, broken, *more, "--resume"))[0] == 0
    one, other = (load_checkpoint(folder / "last.pth") for folder in (whole, broken))
    for part in ("model", "average"):
        for key, value in one["training_state"][part].items():
            assert torch.equal(value, other["training_state"][part][key]), (part, key)
    assert not any(".lora_" in key or "base_layer" in key for key in one["model"])
    raw, averaged = (one["training_state"][part]["classifier.1.weight"] for part in ("model", "average"))
    assert torch.equal(one["model"]["classifier.1.weight"], averaged) and not torch.equal(raw, averaged)
    # the best file is what was evaluated, and peft is not needed to read it
    best = load_checkpoint(whole / "best_iou.pth")
    assert "training_state" not in best
    monkeypatch.setitem(sys.modules, "peft", None)
    result = tmp_path / "val.json"
    arguments = ["--checkpoint", whole / "best_iou.pth", "--data_root", squares.root, "--split", "val"]
    arguments += ["--output", result, "--num_workers", 0, "--device", "cpu", "--mask_threshold", 0.5]
    assert script("evaluate_defect_model", *arguments)[0] == 0
    assert json.loads(result.read_text())["pixel_iou"] == pytest.approx(best["metrics"]["pixel_iou"], abs=1e-4)
    # the next stage starts from the averaged, merged weights
    following = flags(squares, tmp_path / "next", "--epochs", 1, "--init_from", whole / "last.pth", "--lr", 0)
    assert script("train_defect_model", *following)[0] == 0
    weights = load_checkpoint(tmp_path / "next/last.pth")["model"]
    assert torch.equal(weights["backbone.network.conv_head.weight"], one["model"]["backbone.network.conv_head.weight"])


# --- accumulated gradients


class CalmStep(TrainStep):
    """Norms in eval mode: their statistics are what a larger batch does change."""

    def train(self, mode: bool = True) -> CalmStep:
        return super().train(False)


def train_weights(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, accumulate: int, images: int
) -> tuple[dict[str, Tensor], int, dict]:
    """The weights after an epoch of plain gradient descent, how many updates it had, and its means."""
    monkeypatch.setattr(defect_state, "TrainStep", CalmStep)
    monkeypatch.setattr(
        defect_state,
        "build_optimizer",
        lambda model, criterion, config: torch.optim.SGD([{"params": list(model.parameters()), "lr": 0.5}]),
    )
    model = build_model("official")
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 255, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    parts = {
        "image": pixels,
        "label": torch.arange(images) % 2,
        "mask": torch.zeros(images, 32, 32, dtype=torch.uint8),
        "has_mask": torch.ones(images, dtype=torch.bool),
        "index": torch.arange(images),
    }
    split = zip(*(value.split(batch_size) for value in parts.values()), strict=True)
    loader = [dict(zip(parts, values, strict=True)) | {"error": [""] * len(values[0])} for values in split]
    config = TrainConfig(data_root=Path("data"), accumulate=accumulate, epochs=2)
    precision = resolve_precision("off", CPU)
    state = TrainState(model, MultiTaskLoss(beta=0.0), config, updates_per_epoch=2, precision=precision)
    result = loop.train_one_epoch(
        state,
        loader,
        precision=precision,
        normalization=Normalization((0.5,) * 3, (0.5,) * 3),
        checkpointer=Checkpointer(config, {}, World(), CPU),
        progress=False,
    )
    return model.state_dict(), state.lr_scheduler.last_epoch, result


@pytest.mark.parametrize("images", [8, 6])
def test_accumulated_batches_give_the_weights_of_a_larger_one(monkeypatch, images: int) -> None:
    """With six images, what is left at the end makes a smaller update in both."""
    large, seen, means = train_weights(monkeypatch, 4, 1, images)
    small, again, others = train_weights(monkeypatch, 2, 2, images)
    assert seen == again == 2
    start = build_model("official").state_dict()
    assert not torch.equal(large["backbone.patch_embed.weight"], start["backbone.patch_embed.weight"])
    for key, value in large.items():
        torch.testing.assert_close(small[key], value, atol=1e-6, rtol=1e-4)
    assert others["train_total_loss"] == pytest.approx(means["train_total_loss"], rel=1e-4)


def test_a_run_goes_on_from_a_checkpoint_older_than_these_flags(trained: Path, squares: Manifest, script) -> None:
    folder = trained.with_name("older")
    folder.mkdir()
    content = load_checkpoint(trained / "last.pth")
    assert "training_state" not in content  # it would say the same as the weights
    newer = "unfreeze_last lora_rank layer_decay drop_path accumulate ema_decay grad_checkpointing freeze_batch_norm"
    for name in newer.split():
        del content["config"][name]
    torch.save(content, folder / "last.pth")
    assert script("train_defect_model", *flags(squares, folder, "--epochs", 3, "--resume"))[0] == 0
    more = ("--epochs", 4, "--resume", "--accumulate", 2)
    status, _, err = script("train_defect_model", *flags(squares, folder, *more))
    assert status == 1 and "--accumulate was 1, now 2" in err


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norms_keep_their_statistics_while_all_weights_train(
    squares: Manifest, tmp_path: Path, script, frozen: bool
) -> None:
    more = ("--epochs", 1, "--freeze_batch_norm" if frozen else "--no-freeze_batch_norm")
    assert script("train_defect_model", *flags(squares, tmp_path / "run", *more))[0] == 0
    state = load_checkpoint(tmp_path / "run" / "last.pth")["model"]
    means = {name: value for name, value in state.items() if name.endswith("running_mean")}
    scales = [name.replace("running_mean", "weight") for name in means]
    moved = {name.startswith("backbone."): bool(value.any()) for name, value in means.items()}
    assert moved == {True: not frozen, False: True}  # a new norm's mean is zero; the decoder's always learn
    assert all((state[name] != 1).any() for name in scales)
