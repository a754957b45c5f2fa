"""A model spread over two processes: it learns what one process learns, and its checkpoints are like any other."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from conftest import write_squares
from helpers.forking import Launcher
from test_resume import SIGNAL_AT_BATCH
from test_two_processes import log_lines, start_two

from dinov3.data.defect_manifest import Manifest
from dinov3.defect_cli import make_parser, parse
from dinov3.defect_distributed import World
from dinov3.defect_errors import DefectError
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.models.defect_device import Precision
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_fsdp import is_to_shard

FLAGS = "--backbone timm:test_vit --weights none --image_size 32 --num_workers 0 --device cpu --dropout 0"
FLAGS += " --use_uncertainty_weighting --epochs 2 --lr 1e-4 --ema_decay 0.9 --grad_clip 0.5 --grad_checkpointing"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Five validation images in batches of two: three for one process, two for the other."""
    return write_squares(tmp_path_factory.mktemp("sharding") / "data", train=12, val=5, test=2)


def flags(data: Manifest, save_dir: Path, batch_size: int, *more: object) -> list[object]:
    return ["--data_root", data.root, "--save_dir", save_dir, *FLAGS.split(), "--batch_size", batch_size, *more]


@pytest.fixture(scope="module")
def pair(launcher: Launcher, data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    for child in start_two(launcher, flags(data, folder, 2, "--fsdp", "on")):
        assert child.status(120) == 0, child.log.read_text()
    return folder


def test_two_shares_learn_what_one_whole_learns(launcher: Launcher, data: Manifest, pair: Path, tmp_path: Path) -> None:
    child = launcher.start(flags(data, tmp_path / "one", 4))
    assert child.status(120) == 0, child.log.read_text()
    names = "train_total_loss train_cls_loss train_seg_loss alpha beta val_total_loss val_cls_loss val_seg_loss"
    for one, two in zip(log_lines(tmp_path / "one"), log_lines(pair), strict=True):
        assert two["confusion"] == one["confusion"]
        for name in names.split():
            assert two[name] == pytest.approx(one[name], rel=5e-4), (one["epoch"], name)
    one, two = (load_checkpoint(folder / "last.pth") for folder in (tmp_path / "one", pair))
    for part in ("model", "average"):
        for name, value in one["training_state"][part].items():
            # AdamW takes a whole step where a gradient is nothing but rounding, so that single weights differ.
            close = torch.isclose(two["training_state"][part][name], value, rtol=1e-3, atol=1e-4)
            assert (~close).sum() <= 1e-4 * close.numel(), name
    assert len(one["optimizer"]["state"]) == len(two["optimizer"]["state"])
    for number, entry in one["optimizer"]["state"].items():
        for name, value in entry.items():
            assert value.shape == two["optimizer"]["state"][number][name].shape


def test_its_checkpoint_loads_into_a_plain_model(pair: Path) -> None:
    model = restore_model(load_checkpoint(pair / "best_iou.pth"), pair / "best_iou.pth")
    assert model(torch.rand(1, 3, 32, 32))["segmentation"].isfinite().all()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    launcher: Launcher, data: Manifest, pair: Path, tmp_path: Path
) -> None:
    kill = SIGNAL_AT_BATCH.format(
        module="train.train_defect_classifier", number=4, action="os.kill(os.getpid(), signal.SIGTERM)"
    )
    for child in start_two(launcher, flags(data, tmp_path, 2, "--fsdp", "on"), ("", kill)):
        assert child.status(60) == 128 + signal.SIGTERM, child.log.read_text()
    for child in start_two(launcher, flags(data, tmp_path, 2, "--fsdp", "on", "--resume")):
        assert child.status(60) == 0, child.log.read_text()
    one, two = (load_checkpoint(folder / "last.pth") for folder in (pair, tmp_path))
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    for number, entry in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][number][name]) for name, value in entry.items())


def test_tiles_are_evaluated_though_their_numbers_differ(launcher: Launcher, data: Manifest, tmp_path: Path) -> None:
    """Each process has images of its own, so what counts is that whole models in two processes do the same."""
    for mode in ("on", "off"):
        more = ("--tile_size", 32, "--decoder", "light", "--epochs", 1, "--fsdp", mode)
        for child in start_two(launcher, flags(data, tmp_path / mode, 2, *more)):
            assert child.status(60) == 0, child.log.read_text()
    shares, whole = (log_lines(tmp_path / mode)[0] for mode in ("on", "off"))
    assert shares["confusion"] == whole["confusion"]
    for name in ("train_total_loss", "val_total_loss"):
        assert shares[name] == pytest.approx(whole[name], rel=1e-4), name


def test_what_was_sharded_may_go_on_whole(launcher: Launcher, data: Manifest, pair: Path, tmp_path: Path) -> None:
    content = load_checkpoint(pair / "last.pth")
    torch.save(content, tmp_path / "last.pth")
    (tmp_path / "metrics.jsonl").write_text((pair / "metrics.jsonl").read_text())
    for child in start_two(launcher, flags(data, tmp_path, 2, "--epochs", 3, "--resume")):
        assert child.status(60) == 0, child.log.read_text()
    assert len(log_lines(tmp_path)) == 3


@pytest.mark.parametrize(
    ("fsdp", "backbone", "size", "more", "expected"),
    [
        ("auto", "dinov3_vit7b16", 2, {}, True),
        ("auto", "dinov3_vith16plus", 2, {}, True),
        ("auto", "dinov3_vith16plus", 1, {}, False),
        ("auto", "dinov3_vith16plus", 2, {"lora_rank": 8}, False),
        ("auto", "dinov3_vitb16", 2, {}, False),
        ("off", "dinov3_vit7b16", 2, {}, False),
        ("on", "dinov3_vitb16", 2, {}, True),
        ("on", "dinov3_vitb16", 1, {}, "torchrun"),
        ("on", "dinov3_vitb16", 2, {"lora_rank": 8}, "--lora_rank"),
        ("on", "dinov3_vitb16", 2, {"auto_batch": True}, "--batch_size"),
    ],
)
def test_who_is_sharded(fsdp: str, backbone: str, size: int, more: dict, expected: bool | str) -> None:
    config = TrainConfig(data_root=Path("data"), fsdp=fsdp, backbone=backbone, **more)
    world, precision = World(0, size, 0), Precision(torch.device("cpu"), None)
    if isinstance(expected, bool):
        assert is_to_shard(config, world, precision) == expected
        return
    with pytest.raises(DefectError, match=expected):
        is_to_shard(config, world, precision)


@pytest.mark.parametrize("value", ["auto", "on", "off"])
def test_a_file_of_flags_may_say_on(tmp_path: Path, value: str) -> None:
    (tmp_path / "flags.yaml").write_text(f"data_root: x\nfsdp: {value}\n")
    config = parse(TrainConfig, make_parser(TrainConfig, None), ["--config", str(tmp_path / "flags.yaml")])
    assert config.fsdp == value
