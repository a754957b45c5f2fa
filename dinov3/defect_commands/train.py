"""Train one stage of a defect model on a dataset folder.

python examples/train_defect_model.py --data_root data/demo --backbone efficientnet_lite0 --freeze_backbone
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from dinov3.data.defect_transforms import Normalization
from dinov3.defect_cli import make_parser, parse
from dinov3.defect_distributed import World, join_world
from dinov3.defect_errors import run_script
from dinov3.defect_evaluation.calibrate_checkpoint import calibrate_for_best_f1, score_checkpoint
from dinov3.inference.reports.training import report_is_current, report_training
from dinov3.models.defect_checkpoint import load_checkpoint, load_model_state
from dinov3.models.defect_device import compile_model, resolve_device, resolve_precision
from dinov3.train.defect_checkpointer import BEST, describe_run
from dinov3.train.defect_config import TrainConfig
from dinov3.train.defect_data import build_criterion, enough_masks, mask_share, open_data, print_summary
from dinov3.train.defect_finetune import build_model, load_backbone, prepare_backbone, resolve
from dinov3.train.defect_fsdp import is_to_shard
from dinov3.train.defect_memory import explain_out_of_memory, find_batch_size, memory_demand
from dinov3.train.defect_resume import find_start
from dinov3.train.defect_run_diagnosis import learned_nothing
from dinov3.train.defect_run_folder import lock_run
from dinov3.train.defect_step import TrainStep
from dinov3.train.train_defect_classifier import fit


def main(argv: Sequence[str] | None = None) -> int:
    """Train, say what was reached, calibrate the best files, and report."""
    config = parse(TrainConfig, make_parser(TrainConfig, __doc__), argv)
    with ExitStack() as folder:
        with join_world(resolve_device(config.device)) as (world, device):
            if world.is_main:
                folder.enter_context(lock_run(config.save_dir))
            config = train(config, world, device)
        if world.is_main:  # the processes have parted, so the passes are this one's own
            calibrate_and_report(config, device)
    return 0


def calibrate_and_report(config: TrainConfig, device: torch.device) -> None:
    """Calibrate the best files of a run that ended, and write its report."""
    options = {
        "device": str(device),
        "precision": config.mixed_precision,
        "batch_size": config.batch_size,
        "num_workers": config.num_workers,
        "dinov3_repo": config.dinov3_repo,
    }
    best = config.save_dir / "best_accuracy.pth"
    files = [config.save_dir / name for name in BEST]
    scored = calibrate_for_best_f1(files, config.data_root, **options).get(best)
    if scored is None and best.is_file() and not report_is_current(config.save_dir):
        scored = score_checkpoint(load_checkpoint(best), best, config.data_root, **options)
    if scored is not None:
        report_training(best, scored, device=str(device), dinov3_repo=config.dinov3_repo)


def train(config: TrainConfig, world: World, device: torch.device) -> TrainConfig:
    """Open the data, build the model, fit, and say what was reached; ``config`` as it was resolved."""
    torch.manual_seed(config.seed)
    precision = resolve_precision(config.mixed_precision, device)
    sharded = is_to_shard(config, world, precision)
    data = open_data(config)
    start = find_start(config, data.manifest)
    if start.complete:
        print(f"{config.save_dir}: complete, {start.complete}; nothing to do")
        return config
    # A checkpoint holds the backbone's weights too, so there is nothing to download then.
    backbone = load_backbone(config, config.weights if start.is_new else "none")
    config = resolve(config, backbone, enough_masks(data.train_rows), start.resumed)
    model = build_model(config, backbone, data.manifest)
    model.class_trains_decoder = 1 - mask_share(data.train_rows)
    if start.weights is not None:
        load_model_state(model, start.weights["model"], config.init_from)
    prepare_backbone(model, config)
    criterion = build_criterion(config, data.train_rows).to(device)
    normalization = Normalization(tuple(backbone.mean), tuple(backbone.std))
    with explain_out_of_memory(memory_demand(model, config, precision), device):
        if not sharded:
            model.to(device, memory_format=torch.channels_last)  # convolutions run faster so
    if config.auto_batch and start.resumed is None:
        most = max(len(data.train_set) // world.size // 10, 1)  # at least ten updates an epoch
        batch_size, accumulate = find_batch_size(
            TrainStep(model, criterion, alone=True),
            memory_demand(model, config, precision),
            most=most,
            precision=precision,
            normalization=normalization,
        )
        config = replace(config, batch_size=batch_size, accumulate=accumulate)
    if config.compile:
        compile_model(model, device)
    if world.is_main:
        config.save()
        print_summary(config, model, data, device)
    with explain_out_of_memory(memory_demand(model, config, precision), device):
        result = fit(
            model,
            criterion,
            data.train_set,
            data.val_set,
            config,
            precision=precision,
            normalization=normalization,
            description=describe_run(config, data.manifest, normalization),
            resume=start.resumed,
            world=world,
        )
    if world.is_main:
        for file, best in result["best"].items():
            values = ", ".join(f"{name} {value:.3f}" for name, value in best.items() if name != "epoch")
            print(f"{config.save_dir / file}: epoch {best['epoch']}, {values} (validation)")
        print(learned_nothing(result["best"], config.save_dir / "metrics.jsonl", config), end="")
    return config


def console() -> None:
    """The command ``defect-train``."""
    run_script(main)
