"""Train one stage of a defect model on a dataset folder.

python examples/train_defect_model.py --data_root data/demo --backbone efficientnet_lite0 --freeze_backbone
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _bootstrap  # noqa: F401  puts the repository first on sys.path
import torch
import yaml

from dinov3._official import load_official_backbone
from dinov3.data.defect_manifest import read_manifest
from dinov3.data.defect_transforms import Normalization
from dinov3.defect_cli import (
    fraction,
    non_negative_float,
    non_negative_int,
    parse_with_config,
    positive_int,
)
from dinov3.defect_distributed import World, join_world
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_evaluation.calibrate import calibrate_for_best_f1, score_validation
from dinov3.inference.reports.training import report_is_current, report_training
from dinov3.models.defect_backbone import build_backbone
from dinov3.models.defect_checkpoint import load_checkpoint, load_model_state
from dinov3.models.defect_classifier import (
    AttentionGuidedDefectClassifier,
    DynamicWeightScheduler,
    MultiTaskLoss,
)
from dinov3.models.defect_device import add_device_flags, compile_model, resolve_device, resolve_precision
from dinov3.train.defect_checkpointer import BEST
from dinov3.train.defect_data import (
    balanced_weights,
    build_datasets,
    enough_masks,
    print_summary,
    usable_split,
)
from dinov3.train.defect_finetune import add_finetuning_flags, memory_demand, prepare_backbone
from dinov3.train.defect_fsdp import is_to_shard
from dinov3.train.defect_guardrails import WATCHABLE, EarlyStopping
from dinov3.train.defect_memory import explain_out_of_memory, find_batch_size
from dinov3.train.defect_resume import check_same, fingerprint, what_is_complete
from dinov3.train.defect_run_diagnosis import learned_nothing
from dinov3.train.defect_step import TrainStep
from dinov3.train.train_defect_classifier import TrainingOptions, fit


def build_parser() -> argparse.ArgumentParser:
    """Every flag; the same names are keys of the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, help="YAML file with defaults for these flags")
    add("--data_root", type=Path, required=True, help="dataset folder, as prepare_defect_data.py writes it")
    add("--save_dir", type=Path, default=Path("checkpoints/run"), help="where checkpoints and logs go")
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--backbone", default="dinov3_vitb16", help="name of the backbone; timm:NAME takes any timm model")
    add("--weights", default="default", help="'default' (pretrained, downloaded), a local file, or 'none'")
    add("--dinov3_repo", type=Path, help="official DINOv3 checkout to build the backbone from")
    add(
        "--decoder",
        choices=("multiscale", "light"),
        default="multiscale",
        help="mask at stride 4, or one value per patch",
    )
    add(
        "--guidance",
        choices=("mask", "none"),
        default="mask",
        help="let the predicted mask guide the classifier or not",
    )
    add(
        "--mask_evidence",
        action=argparse.BooleanOptionalAction,
        help="the verdict is the mean of the classifier's and the mask's (default: if one defect in 20 has a mask)",
    )
    add("--dropout", type=fraction, default=0.2, help="in the classification head")
    add("--freeze_backbone", action=argparse.BooleanOptionalAction, default=False, help="train the heads alone")
    add("--init_from", type=Path, help="checkpoint whose weights to start from (the stage before)")
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--image_size", type=positive_int, default=512, help="pixels a side the network sees")
    add("--batch_size", type=positive_int, default=16, help="images per step and process")
    add("--num_workers", type=non_negative_int, default=4, help="processes that load images")
    add(
        "--paste_defects",
        type=fraction,
        default=0.4,
        help="share of normal training images that get a defect of another image pasted in (whole images only)",
    )
    tiles = parser.add_argument_group("tiles, for large images")
    add = tiles.add_argument
    add(
        "--tile_size",
        type=non_negative_int,
        default=0,
        help="side in pixels of the original image; a tile is resized to --image_size; 0: whole images",
    )
    add("--tile_overlap", type=fraction, default=0.25, help="share of a tile's side that neighbours share, up to 0.75")
    add(
        "--tile_defect_fraction",
        type=fraction,
        default=0.5,
        help="share of the training crops that are centered on defects; the others walk over all images",
    )
    add("--tiles_per_image", type=positive_int, default=4, help="training crops per image and epoch, on average")
    loss = parser.add_argument_group("loss")
    add = loss.add_argument
    add("--alpha", type=non_negative_float, default=1.0, help="weight of the class loss")
    add("--beta", type=non_negative_float, default=0.5, help="weight of the mask loss")
    add(
        "--use_dynamic_weights",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="move from mask first (0.5, 1.0) to class first (1.0, 0.3)",
    )
    add("--weight_warmup_epochs", type=non_negative_int, default=20, help="length of that move")
    add(
        "--use_uncertainty_weighting",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="learn both weights (Kendall et al. 2018)",
    )
    add("--class_loss", choices=("ce", "focal"), default="ce", help="cross-entropy or focal")
    add("--mask_loss", choices=("bce_dice", "focal_dice"), default="bce_dice", help="per-pixel part beside Dice")
    add("--class_weights", choices=("none", "balanced"), default="none", help="'balanced' weighs rare classes up")
    add("--label_smoothing", type=fraction, default=0.0, help="for cross-entropy")
    optim = parser.add_argument_group("optimization")
    add = optim.add_argument
    add("--epochs", type=positive_int, default=30, help="passes over the training set")
    add("--lr", type=non_negative_float, default=1e-3, help="peak learning rate of the heads (AdamW)")
    add(
        "--backbone_lr_scale",
        type=non_negative_float,
        help="rate of the backbone's last layer as a share of --lr (default: 0.1 a ViT, 0.2 a ConvNet, 1 LoRA)",
    )
    add("--weight_decay", type=non_negative_float, default=0.05, help="of matrices and kernels")
    add("--grad_clip", type=non_negative_float, default=1.0, help="largest gradient norm; 0 is off")
    add_finetuning_flags(parser)
    run = parser.add_argument_group("run")
    add = run.add_argument
    add_device_flags(add)
    add("--seed", type=non_negative_int, default=42, help="of weights, data order and augmentation")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="go on from last.pth in --save_dir if it is there; start afresh if not",
    )
    add(
        "--save_every_minutes",
        type=non_negative_float,
        default=10.0,
        help="save within an epoch, too, this often; 0: after each epoch only",
    )
    add(
        "--early_stop_patience",
        type=non_negative_int,
        default=0,
        help="end after this many epochs without a better --early_stop_metric; 0: never",
    )
    add("--early_stop_metric", choices=WATCHABLE, default="pixel_iou", help="of the validation images")
    add(
        "--max_skipped_batches",
        type=non_negative_int,
        default=10,
        help="how many updates whose loss is not finite a run may leave out before it ends",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train, say what was reached, calibrate the best files, and report."""
    args = parse_with_config(build_parser(), argv)
    with join_world(resolve_device(args.device)) as (world, device):
        train(args, world, device)
    if world.is_main:  # the processes have parted, so the passes are this one's own
        options = {
            "precision": resolve_precision(args.mixed_precision, device),
            "batch_size": args.batch_size,
            "num_workers": args.num_workers,
            "dinov3_repo": args.dinov3_repo,
        }
        best = args.save_dir / "best_accuracy.pth"
        scored = calibrate_for_best_f1([args.save_dir / name for name in BEST], args.data_root, **options).get(best)
        if scored is None and best.is_file() and not report_is_current(args.save_dir):
            scored = score_validation(load_checkpoint(best), best, args.data_root, **options)
        if scored is not None:
            report_training(best, scored, device=str(device), dinov3_repo=args.dinov3_repo)
    return 0


def train(args: argparse.Namespace, world: World, device: torch.device) -> None:
    """Build everything from the flags and run the loop."""
    if args.use_dynamic_weights and args.use_uncertainty_weighting:
        raise DefectError("--use_dynamic_weights and --use_uncertainty_weighting both set the loss weights; choose one")
    torch.manual_seed(args.seed)
    precision = resolve_precision(args.mixed_precision, device)
    sharded = is_to_shard(args, world, str(precision.dtype))
    manifest = read_manifest(args.data_root)
    train_rows, val_rows = usable_split(manifest, "train"), usable_split(manifest, "val")
    train_set, val_set = build_datasets(args, train_rows, val_rows)
    if args.mask_evidence is None:
        args.mask_evidence = args.guidance == "mask" and enough_masks(train_rows)
    if args.mask_evidence and args.guidance == "none":
        raise DefectError("--mask_evidence needs --guidance mask: without guidance, nothing links mask and verdict")
    last = args.save_dir / "last.pth"
    resume = load_checkpoint(last) if args.resume and last.is_file() else None
    if resume is None and last.is_file():
        raise DefectError(f"{last}: an earlier run is in --save_dir; add --resume to go on, or choose another folder")
    start = resume or (load_checkpoint(args.init_from) if args.init_from else None)
    source = last if resume else args.init_from
    if resume is not None and args.auto_batch:  # what was found then
        args.batch_size, args.accumulate = resume["config"]["batch_size"], resume["config"].get("accumulate", 1)
    if start is not None and resume is None and start.get("progress") is not None:
        raise DefectError(
            f"--init_from {source}: that run was interrupted in epoch {start['epoch'] + 1} of "
            f"{start['config']['epochs']}; let it go on with --resume first, or start from its best_iou.pth"
        )
    if start is not None:
        defaults = vars(build_parser().parse_args(["--data_root", "x"]))
        check_same(start, source, manifest, args, defaults, same_run=resume is not None)
    early_stopping = EarlyStopping(args.early_stop_metric, args.early_stop_patience)
    complete = what_is_complete(resume, args.epochs, early_stopping) if resume is not None else ""
    if complete:
        print(f"{args.save_dir}: complete, {complete}; nothing to do")
        return
    # A checkpoint holds the backbone's weights too, so there is nothing to download then.
    weights = "none" if start is not None else args.weights
    if args.dinov3_repo is not None:
        backbone = load_official_backbone(args.dinov3_repo, args.backbone, weights)
    else:
        backbone = build_backbone(args.backbone, weights)
    model = AttentionGuidedDefectClassifier(
        backbone,
        backbone.embed_dim,
        len(manifest.classes),
        len(manifest.mask_classes),
        args.dropout,
        decoder=args.decoder,
        guidance=args.guidance,
        score_fusion=args.mask_evidence,
    )
    if start is not None and resume is None:
        load_model_state(model, start["model"], source)
    prepare_backbone(model, args)
    if resume is not None:  # with adapters, and not averaged
        load_model_state(model, resume.get("training_state", resume)["model"], source)
    demand = memory_demand(model, args, precision.dtype is not None)
    if not sharded:
        with explain_out_of_memory(demand, device):
            model.to(device, memory_format=torch.channels_last)  # convolutions run faster so
    criterion = MultiTaskLoss(
        args.alpha,
        args.beta,
        args.use_uncertainty_weighting,
        class_loss=args.class_loss,
        mask_loss=args.mask_loss,
        class_weights=balanced_weights(train_rows, args) if args.class_weights == "balanced" else None,
        label_smoothing=args.label_smoothing,
    ).to(device)
    scheduler = DynamicWeightScheduler(warmup_epochs=args.weight_warmup_epochs)
    normalization = Normalization(tuple(backbone.mean), tuple(backbone.std))
    if args.auto_batch and resume is None:
        most = max(len(train_set) // world.size // 10, 1)  # at least ten updates an epoch
        args.batch_size, args.accumulate = find_batch_size(
            TrainStep(model, criterion, alone=True), demand, most=most, precision=precision, normalization=normalization
        )
        demand = memory_demand(model, args, demand.autocast)
    if args.compile:
        compile_model(model, device)
    config = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    del config["config"]  # what it held is resolved into the others
    if resume is not None:
        config["init_from"] = resume["config"].get("init_from")  # where it did start, whatever is given now
    description = {
        "config": config,
        "backbone": args.backbone,
        "official": args.dinov3_repo is not None,
        "classes": manifest.classes,
        "mask_classes": manifest.mask_classes,
        "manifest": fingerprint(manifest),
        "white_level": manifest.white_level,
        "image_size": args.image_size,
        "tile_size": args.tile_size,
        "tile_overlap": args.tile_overlap,
        "normalization": {"mean": list(normalization.mean), "std": list(normalization.std)},
        "thresholds": {"classification": 0.5, "mask": 0.5},
    }
    if world.is_main:
        try:
            args.save_dir.mkdir(parents=True, exist_ok=True)
            (args.save_dir / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        except OSError as error:
            raise DefectError(f"--save_dir {args.save_dir}: cannot be written ({error.strerror})") from None
        print_summary(args, model, manifest, train_set, device)
    options = TrainingOptions(
        args.save_dir,
        args.epochs,
        args.batch_size,
        args.num_workers,
        args.lr,
        args.backbone_lr_scale,
        args.weight_decay,
        args.grad_clip,
        args.seed,
        save_every_minutes=args.save_every_minutes,
        max_skipped_batches=args.max_skipped_batches,
        layer_decay=args.layer_decay,
        accumulate=args.accumulate,
        ema_decay=args.ema_decay,
        sharded=sharded,
    )
    with explain_out_of_memory(demand, device):
        result = fit(
            model,
            criterion,
            train_set,
            val_set,
            options,
            precision=precision,
            normalization=normalization,
            description=description,
            weight_scheduler=scheduler if args.use_dynamic_weights else None,
            early_stopping=early_stopping,
            resume=resume,
            world=world,
        )
    if world.is_main:
        for file, best in result["best"].items():
            values = ", ".join(f"{name} {value:.3f}" for name, value in best.items() if name != "epoch")
            print(f"{args.save_dir / file}: epoch {best['epoch']}, {values} (validation)")
        print(learned_nothing(result["best"], args.save_dir / "metrics.jsonl", config), end="")


if __name__ == "__main__":
    run_script(main)
