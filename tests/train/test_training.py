"""Training through its script: what a run leaves behind, going on after an interruption, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TRAIN_FLAGS, write_squares
from helpers.forking import Launcher
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dinov3.data.defect_manifest import Manifest
from dinov3.models.defect_checkpoint import load_checkpoint, restore_model
from dinov3.train.defect_checkpointer import improved_files
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_optim import lr_factor

pytestmark = pytest.mark.usefixtures("undrawn")


def flags(data: Manifest | Path, save_dir: Path, *more: object) -> list[object]:
    root = data.root if isinstance(data, Manifest) else data
    return ["--data_root", root, "--save_dir", save_dir, *TRAIN_FLAGS, *more]


def log_lines(save_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (save_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_it_promises(trained: Path) -> None:
    lines = log_lines(trained)
    assert [line["epoch"] for line in lines] == [1, 2]
    keys = (
        "image_accuracy image_precision image_recall image_f1 image_ap image_auroc pixel_iou pixel_dice mean_iou_defect"
    )
    assert set(keys.split()) | {"pixel_ap", "pixel_aupro", "confusion", "train_total_loss", "lr_heads"} <= set(lines[0])
    content = load_checkpoint(trained / "best_accuracy.pth")
    assert content["backbone"] == "timm:test_efficientnet" and content["classes"] == ["normal", "defect"]
    assert content["best"]["best_accuracy.pth"]["image_accuracy"] == max(line["image_accuracy"] for line in lines)
    assert yaml.safe_load((trained / "config.yaml").read_text())["image_size"] == 64
    assert Image.open(trained / "curves.png").size[0] > 500
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("image_ap")) == 2 and len(events.Images("val_examples")) == 2


def test_best_is_decided_by_the_first_metric_and_ties_by_the_next() -> None:
    best: dict = {}
    table = [(0.9, 0.5, 0.1), (0.8, 0.9, 0.2), (0.9, 0.6, 0.0), (0.9, 0.6, float("nan")), (0.9, 0.6, 0.3)]
    chosen = []
    for values in table:
        metrics = dict(zip(("image_accuracy", "image_ap", "pixel_iou"), values, strict=True))
        files = improved_files(best, metrics)
        best |= dict.fromkeys(files, metrics)
        chosen.append("best_accuracy.pth" in files)
    assert chosen == [True, False, True, False, True]
    assert best["best_iou.pth"]["pixel_iou"] == 0.3


def test_a_complete_run_is_not_done_again_nor_overwritten(squares: Manifest, trained: Path, script) -> None:
    before = (trained / "last.pth").read_bytes()
    status, out, _ = script("train_defect_model", *flags(squares, trained, "--epochs", 2, "--resume"))
    assert status == 0 and "nothing to do" in out
    status, _, err = script("train_defect_model", *flags(squares, trained, "--epochs", 2))
    assert status == 1 and "--resume" in err
    status, _, err = script(
        "train_defect_model", *flags(squares, trained, "--epochs", 2, "--resume", "--image_size", 96)
    )
    assert status == 1 and "--image_size was 64, now 96" in err
    assert (trained / "last.pth").read_bytes() == before


def test_init_from_takes_the_weights_over_and_refuses_others(
    squares: Manifest, trained: Path, tmp_path, script
) -> None:
    start = trained / "best_accuracy.pth"
    more = ("--epochs", 1, "--init_from", start, "--lr", 0, "--freeze_backbone")
    assert script("train_defect_model", *flags(squares, tmp_path / "next", *more))[0] == 0
    one, other = load_checkpoint(start)["model"], load_checkpoint(tmp_path / "next/last.pth")["model"]
    learned = [name for name in one if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(one[name], other[name]) for name in learned)
    arguments = flags(squares, tmp_path / "other", *more, "--backbone", "dinov3_vitt16")
    status, _, err = script("train_defect_model", *arguments)
    assert status == 1 and "timm:test_efficientnet" in err and "dinov3_vitt16" in err
    assert not (tmp_path / "other").exists()
    config = tmp_path / "next/config.yaml"  # resumed with another start, it says where it did start
    more = ("--epochs", 2, "--init_from", trained / "best_iou.pth", "--lr", 0, "--freeze_backbone", "--resume")
    assert script("train_defect_model", *flags(squares, tmp_path / "next", *more))[0] == 0
    assert yaml.safe_load(config.read_text())["init_from"] == str(start)


def test_an_interrupted_stage_is_nothing_to_start_the_next_from(squares, trained: Path, tmp_path, script) -> None:
    torch.save(
        load_checkpoint(trained / "last.pth") | {"epoch": 1, "progress": [{"batches": 1}]}, tmp_path / "last.pth"
    )
    arguments = flags(squares, tmp_path / "next", "--init_from", tmp_path / "last.pth")
    status, _, err = script("train_defect_model", *arguments)
    assert status == 1 and "last.pth: that run was interrupted in epoch 2 of 2" in err and "--resume" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--use_dynamic_weights", "--class_weights", "balanced"), ""),
        (("--use_uncertainty_weighting", "--freeze_backbone", "--mixed_precision", "bf16"), ""),
        (("--decoder", "light", "--guidance", "none", "--mask_loss", "focal_dice"), ""),
        (("--guidance", "none", "--score_fusion"), "--score_fusion needs --guidance mask"),
        (("--device", "cuda:77"), "--device cuda:77"),
        (("--weights", "/no/such/file.pth"), "/no/such/file.pth"),
        (("--backbone", "dinov3_vitb61"), "dinov3_vitb16"),
        (("--config", "/no/such.yaml"), "/no/such.yaml"),
        (("--use_dynamic_weights", "--use_uncertainty_weighting"), "choose one"),
    ],
)
def test_flags_work_or_say_why_not(squares: Manifest, tmp_path: Path, script, more, message: str) -> None:
    status, _, err = script("train_defect_model", *flags(squares, tmp_path / "run", "--epochs", 1, *more))
    if message:
        assert status == 1 and message in err and not (tmp_path / "run").exists()
    else:
        assert status == 0 and (tmp_path / "run/last.pth").is_file()


@pytest.mark.parametrize("flag", [("--epochs", "0"), ("--lr", "fast"), ("--dropout", "2"), ("--no_such_flag",)])
def test_a_wrong_flag_value_is_wrong_usage(tmp_path: Path, flag: tuple[str, ...], capsys) -> None:
    import train_defect_model

    with pytest.raises(SystemExit) as exit_info:
        train_defect_model.main([str(a) for a in flags(tmp_path, tmp_path / "run", *flag)])
    assert exit_info.value.code == 2 and flag[0] in capsys.readouterr().err


def test_an_empty_split_and_a_missing_dataset_are_named(tmp_path: Path, script) -> None:
    status, _, err = script("train_defect_model", *flags(tmp_path / "absent", tmp_path / "run"))
    assert status == 1 and "absent" in err and "prepare_defect_data.py" in err
    data = write_squares(tmp_path / "data", train=8, val=0)
    status, _, err = script("train_defect_model", *flags(data, tmp_path / "run"))
    assert status == 1 and "val split" in err


def test_a_broken_image_is_reported_and_the_rest_trains(tmp_path: Path, script) -> None:
    data = write_squares(tmp_path / "data", train=8, val=4)
    (data.root / "images/train/001.png").write_bytes(b"not an image")
    (data.root / "images/val/000.png").unlink()
    status, out, err = script("train_defect_model", *flags(data, tmp_path / "run", "--epochs", 1))
    assert status == 0 and "train/001.png" in out + err and "val/000.png" in out + err
    line = log_lines(tmp_path / "run")[0]
    assert line["unreadable"] == 1 and sum(map(sum, line["confusion"])) == 3


def without_masks(folder: Path, kept: int) -> Manifest:
    """Eight training images, four of them with a defect, of which ``kept`` have their mask."""
    data = write_squares(folder, train=8, val=4)
    table = data.root / "manifest.csv"
    rows = table.read_text().splitlines()
    for number in [n for n, row in enumerate(rows) if ",masks/train" in row][kept:]:
        rows[number] = rows[number].replace(rows[number].split(",")[1], "", 1)
    table.write_text("\n".join(rows))
    return data


@pytest.mark.parametrize("masks", [0, 1])
def test_defect_images_without_masks_train_the_class(tmp_path: Path, script, masks: int) -> None:
    data = without_masks(tmp_path / "data", masks)
    status, out, _ = script("train_defect_model", *flags(data, tmp_path / "run", "--epochs", 1))
    assert status == 0 and f"{4 - masks} defect images without a mask" in out
    content = load_checkpoint(tmp_path / "run/best_iou.pth")
    # Scores are fused only if some defects had a mask to learn from.
    assert restore_model(content, "best_iou.pth").score_fusion is (masks > 0)
    line = log_lines(tmp_path / "run")[0]
    assert (line["verdicts_seen"], line["masks_seen"]) == (8, 4 + masks)


def test_the_class_trains_the_decoder_only_where_masks_are_missing(tmp_path: Path, script) -> None:
    """The loss is the class's alone (--beta 0)."""
    alone, weights = ("--epochs", 1, "--beta", 0, "--weight_decay", 0, "--paste_defects", 0), {}
    for name, kept, more in (("all", 4, ()), ("few", 1, ()), ("untrained", 4, ("--lr", 0))):
        data = without_masks(tmp_path / f"data_{name}", kept)
        assert script("train_defect_model", *flags(data, tmp_path / name, *alone, *more))[0] == 0
        weights[name] = load_checkpoint(tmp_path / name / "last.pth")["model"]["decoder.head.weight"]
    assert torch.equal(weights["all"], weights["untrained"])
    assert not torch.equal(weights["few"], weights["untrained"])


def test_images_without_verdict_train_the_mask(tmp_path: Path, script) -> None:
    data = write_squares(tmp_path / "data", train=12, val=4)
    table = data.root / "manifest.csv"
    lines = table.read_text().splitlines()
    for number in (2, 4, 14):  # two defect images of train, one of val; line 0 is the header
        lines[number] = lines[number].replace(",defect,", ",,")
    table.write_text("\n".join(lines))
    status, out, _ = script("train_defect_model", *flags(data, tmp_path / "run", "--epochs", 1))
    assert status == 0 and "3 images with a mask but no verdict" in out
    line = log_lines(tmp_path / "run")[0]
    assert (line["verdicts_seen"], line["masks_seen"]) == (10, 12)
    assert sum(map(sum, line["confusion"])) == 3 and line["pixel_iou"] is not None


def test_a_lower_rate_takes_effect_on_resume(squares: Manifest, trained: Path, tmp_path: Path, script) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    assert script("train_defect_model", *flags(squares, folder, "--epochs", 3, "--lr", 0, "--resume"))[0] == 0
    before, after = (load_checkpoint(f / "last.pth")["model"] for f in (trained, folder))
    names = [name for name in before if name.endswith(".weight")]
    assert all(torch.equal(before[name], after[name]) for name in names) and log_lines(folder)[2]["lr_heads"] == 0


def test_a_run_is_not_gone_on_with_other_data_or_flags(
    squares: Manifest, trained: Path, tmp_path: Path, script
) -> None:
    other = write_squares(tmp_path / "data", train=26)
    for data, more, words in (
        (other, (), "dataset has changed"),
        (squares, ("--freeze_backbone",), "--freeze_backbone was False, now True"),
        (squares, ("--use_uncertainty_weighting", "--seed", 1), "--seed was 42, now 1"),
    ):
        status, _, err = script("train_defect_model", *flags(data, trained, "--epochs", 3, "--resume", *more))
        assert status == 1 and words in err and "--save_dir" in err


def test_a_batch_without_any_readable_image_is_skipped(tmp_path: Path, script) -> None:
    data = write_squares(tmp_path / "data", train=8, val=9)
    (data.root / "images/val/008.png").write_bytes(b"")  # alone in the last batch
    assert script("train_defect_model", *flags(data, tmp_path / "run", "--epochs", 1))[0] == 0
    assert sum(map(sum, log_lines(tmp_path / "run")[0]["confusion"])) == 8


def test_a_full_disk_keeps_the_previous_checkpoint(
    launcher: Launcher, squares: Manifest, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = (folder / "last.pth").read_bytes()
    # A limit on the size of files stands for the full disk: writing fails midway in the same place.
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))"
    child = launcher.start(flags(squares, folder, "--epochs", 3, "--resume"), before=limit)
    assert child.status(60) == 1
    printed = child.log.read_text()
    assert "could not be written" in printed and "Traceback" not in printed
    assert (folder / "last.pth").read_bytes() == before
    assert not list(folder.glob(".*unfinished"))


def test_save_dir_that_cannot_be_written_is_named(squares: Manifest, tmp_path: Path, script) -> None:
    (tmp_path / "file").write_text("in the way")
    status, _, err = script("train_defect_model", *flags(squares, tmp_path / "file/run", "--epochs", 1))
    assert status == 1 and "--save_dir" in err


def test_learning_rate_follows_the_table() -> None:
    table = {0: 1 / 6, 4: 5 / 6, 5: 1.0, 52: 0.5135, 99: 0.0103, 100: 0.01, 200: 0.01}
    for step, expected in table.items():
        assert lr_factor(step, total_steps=100) == pytest.approx(expected, abs=2e-3)


def test_the_example_config_holds_every_default() -> None:
    values = yaml.safe_load((ROOT / "examples/config_defect_detection.yaml").read_text())
    assert values == TrainConfig(data_root=Path("x")).record() | {"data_root": None}


def test_config_sets_defaults_flags_win_and_mistakes_are_all_named(squares: Manifest, tmp_path: Path, script) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"data_root: {squares.root}\nepochs: 3\nlr: 0.01\nfreeze_backbone: true\n")
    rest = [*TRAIN_FLAGS, "--save_dir", tmp_path / "run"]
    assert script("train_defect_model", "--config", config, "--epochs", 1, *rest)[0] == 0
    resolved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (resolved["epochs"], resolved["lr"], resolved["freeze_backbone"]) == (1, 0.01, True)
    # the resolved file starts another run just so
    again = ("--config", tmp_path / "run/config.yaml", "--save_dir", tmp_path / "again")
    assert script("train_defect_model", *again)[0] == 0
    lines = ("epochs: 1", "mixed_precision: off", "class_weights: none", "weight_decay:", "early_stop_patience: null")
    config.write_text("\n".join((f"data_root: {squares.root}", *lines)))
    assert script("train_defect_model", "--config", config, *TRAIN_FLAGS, "--save_dir", tmp_path / "empty")[0] == 0
    resolved = yaml.safe_load((tmp_path / "empty/config.yaml").read_text())
    assert (resolved["weight_decay"], resolved["early_stop_patience"]) == (0.05, 0)  # an empty line changes nothing
    config.write_text("epoch: 3\nlr: quick\nresume: 1\ndecoder: heavy\n")
    status, _, err = script("train_defect_model", "--config", config, *rest)
    assert status == 1 and all(word in err for word in ("epoch:", "lr:", "resume:", "decoder:", "4 problems"))


def test_augmentation_does_not_depend_on_workers(squares: Manifest) -> None:
    from dinov3.data.defect_dataset import DefectDataset, EpochSampler, make_loader

    dataset = DefectDataset(squares.select("train"), 32, augment=True)
    batches = []
    for workers in (0, 2):
        sampler = EpochSampler(len(dataset), seed=1)
        sampler.epoch = 5
        loader = make_loader(dataset, 8, num_workers=workers, sampler=sampler)
        batches.append(np.concatenate([batch["image"].numpy() for batch in loader]))
    assert np.array_equal(*batches)
