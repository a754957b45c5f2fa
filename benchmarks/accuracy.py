"""How accurate the model is on parts it has never seen, beside its variants and other networks.

python benchmarks/accuracy.py --data tiles --variants guided dual_branch unet fpn --seeds 0 1 2

Cross-validation: the parts are dealt into folds, each image is tested once per seed, and a fifth of the parts of the
other folds is validation, which alone chooses the mask's threshold; each run is tested at its last epoch. Finished runs
are kept in --work_dir and not run again: stop at any time and give the same command, or add a variant, a seed or a
fold.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from accuracy_folds import deal_folds, write_fold  # noqa: E402
from accuracy_models import VARIANTS, Stage, Variant  # noqa: E402
from accuracy_table import print_tables  # noqa: E402
from weak_labels import masked_rows  # noqa: E402

from dinov3.data.defect_dataset import DefectDataset, make_loader  # noqa: E402
from dinov3.data.defect_demo import write_demo  # noqa: E402
from dinov3.data.defect_manifest import Manifest, read_manifest  # noqa: E402
from dinov3.data.defect_transforms import Normalization  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.models.defect_classifier import DynamicWeightScheduler, MultiTaskLoss  # noqa: E402
from dinov3.models.defect_device import Precision, resolve_device, resolve_precision  # noqa: E402
from dinov3.models.defect_flips import FlipAveraged  # noqa: E402
from dinov3.train.defect_checkpoint import load_checkpoint  # noqa: E402
from dinov3.train.defect_finetune import backbone_rates  # noqa: E402
from dinov3.train.defect_image_results import ImageResults  # noqa: E402
from dinov3.train.defect_novelty_fit import fit_novelty  # noqa: E402
from dinov3.train.defect_training_data import masks_can_testify  # noqa: E402
from dinov3.train.train_defect_classifier import TrainingOptions, evaluate, fit  # noqa: E402

TILE_TYPES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="tiles", help="tiles ($MAGNETIC_TILE_DIR), demo, or a dataset folder with groups")
    add(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["guided", "dual_branch", "unet", "fpn"],
        metavar="NAME",
        help="; ".join(f"{name}: {variant.what}" for name, variant in VARIANTS.items()),
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, order and augmentation")
    add("--folds", type=int, default=3, help="parts of the data that are tested in turn")
    add("--only_folds", type=int, nargs="+", help="run these folds alone (default: all)")
    add("--random_split", action="store_true", help="deal images, not parts: shows what twins in training add")
    add("--masks", type=int, default=100, help="percent of each type's defect images that train with their mask")
    add("--without", metavar="TYPE", help="leave this type of defect out of training and validation, e.g. MT_Break")
    add("--backbone", default="efficientnet_lite0")
    add("--weights", default="default", help="default, none, or a local file")
    add("--image_size", type=int, default=224)
    add("--batch_size", type=int, default=16)
    add("--epochs", type=int, default=8, help="of all stages together, the same for every variant")
    add("--num_workers", type=int, default=1)
    add("--mixed_precision", default="auto", choices=("auto", "bf16", "fp16", "off"))
    add("--device", default="auto")
    add("--work_dir", type=Path, default=Path("runs/accuracy"))
    add("--flips", action="store_true", help="tables of answers averaged over mirror images")
    add("--novelty", action="store_true", help="tables in which what is unlike good training images counts")
    add(
        "--testimony",
        action="store_true",
        help="tables in which the masks of all variants testify as the default's does",
    )
    add("--split", choices=("test", "val"), default="test", help="of the tables; choose by val, report test")
    add("--table_only", action="store_true", help="print the tables of what has been run")
    return parser


def open_data(args: argparse.Namespace) -> Manifest:
    """The dataset, made first if need be."""
    if args.data not in ("tiles", "demo"):
        manifest = read_manifest(args.data)
        if len(manifest.classes) != 2:
            raise DefectError(
                f"--data {args.data}: has the classes {', '.join(manifest.classes)}; expected good and bad"
            )
        return manifest.subset(manifest.labels >= 0)  # what nobody judged can't be tested
    folder = args.work_dir / args.data
    if not (folder / "dataset.json").is_file():
        if args.data == "demo":
            write_demo(folder, 480, seed=0)
        else:
            organize_tiles(folder)
    return read_manifest(folder)


def organize_tiles(folder: Path) -> None:
    """The magnetic tiles as a dataset, with the groups that organising finds beside the listed ones."""
    sys.path.insert(0, str(ROOT / "examples"))
    from prepare_defect_data import main as prepare

    source = Path(os.environ.get("MAGNETIC_TILE_DIR", ""))
    if not (source / "MT_Free").is_dir():
        raise DefectError("MAGNETIC_TILE_DIR: expected the folder with MT_Free, MT_Break, ...; set this variable")
    types = [str(source / f"MT_{name}" / "Imgs") for name in TILE_TYPES]
    flags = ["--normal_images", str(source / "MT_Free" / "Imgs"), "--group_csv", str(source / "groups.csv")]
    prepare(["organize", "--defect_images", *types, "--defect_masks", *types, *flags, "--output_dir", str(folder)])


def strata_and_groups(args: argparse.Namespace, manifest: Manifest) -> tuple[list[str], list[str]]:
    """What to stratify by, and what stays together. The demo's parts are all different: there a surface counts as one
    part, so that test surfaces never occur in training."""
    columns = {name: values.tolist() for name, values in manifest.columns.items()}
    if args.random_split:
        return columns["source"], columns["image"]
    if args.data == "demo":
        return ["surface"] * len(manifest), [name.split("/")[1] for name in columns["image"]]
    return columns["source"], columns["group"]


def keep_masks(data: Manifest, percent: int, seed: int) -> Manifest:
    """``data`` with masks for ``percent`` of the defect images in training; the others train the class alone."""
    keep = masked_rows(data, percent, seed)
    unmasked = [row not in keep for row in range(len(data))] & (data.columns["split"] == "train")
    data.columns["mask"][unmasked] = ""
    return data


def leave_out(data: Manifest, kind: str) -> Manifest:
    """``data`` without a type of defect, but for its test images; the other types are not tested."""
    is_kind, is_test = data.columns["source"] == kind, data.columns["split"] == "test"
    return data.subset(np.where(is_test, is_kind | (data.labels == 0), ~is_kind))


def check_peers(names: Sequence[str]) -> None:
    """
    Raises:
        DefectError: one is a network of a package that is missing; better known before the first one has trained.
    """
    peers = [name for name in names if VARIANTS[name].peer]
    if peers and importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise DefectError(f"--variants {' '.join(peers)}: these need one package more: pip install -e '.[peers]'")


def keep_setting(root: Path, args: argparse.Namespace) -> None:
    """Write down what finished runs in ``root`` have in common beside its name.

    Raises:
        DefectError: those that are there had another.
    """
    weights = Path(args.weights)
    setting = {
        "data": args.data if args.data in ("tiles", "demo") else str(Path(args.data).resolve()),
        "weights": str(weights.resolve()) if weights.is_file() else args.weights,
        **{name: getattr(args, name) for name in ("folds", "batch_size", "mixed_precision")},
        "tested": "last epoch",
    }
    path = root / "setting.json"
    if path.is_file():
        other = json.loads(path.read_text(encoding="utf-8"))
        other = {"tested": "best epoch"} | other  # before it was written down
        changed = [f"{name} was {other[name]}, now {value}" for name, value in setting.items() if other[name] != value]
        if changed:
            raise DefectError(f"{root}: its runs had another setting ({'; '.join(changed)}); give another --work_dir")
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(setting, indent=2), encoding="utf-8")


def split_epochs(stages: tuple[Stage, ...], total: int) -> list[int]:
    """Epochs of each stage, at least one, adding up to ``total``; the longest stage takes up what rounding leaves."""
    epochs = [max(round(stage.share * total), 1) for stage in stages]
    epochs[epochs.index(max(epochs))] += total - sum(epochs)
    return epochs


def run(args: argparse.Namespace, variant: Variant, data: Manifest, folder: Path, seed: int) -> None:
    """Train one variant on one fold, and keep what it makes of every validation and test image."""
    precision = resolve_precision(args.mixed_precision, resolve_device(args.device))
    torch.manual_seed(seed)
    model, normalization = variant.build(args.backbone, args.weights)
    if not masks_can_testify(data.select("train")):  # as train_defect_model.py decides
        model.mask_evidence = False
    model.to(precision.device, memory_format=torch.channels_last)
    for number, epochs in enumerate(split_epochs(variant.stages, args.epochs)):
        save_dir = folder / f"stage{number + 1}"
        train_stage(args, variant, number, epochs, model, data, save_dir, seed, precision, normalization)
    content = load_checkpoint(save_dir / "last.pth")  # the model as it now is: what is best on few parts is partly luck
    score_all(args, FlipAveraged(model), data, content, folder, "_flips", precision, normalization)
    if not variant.peer:
        score_novelty(args, model, data, content, folder, precision, normalization)
    score_all(args, model, data, content, folder, "", precision, normalization)
    for number in range(len(variant.stages)):
        shutil.rmtree(folder / f"stage{number + 1}")  # some 100 MB of weights


def score_novelty(
    args: argparse.Namespace,
    model: nn.Module,
    data: Manifest,
    content: dict[str, Any],
    folder: Path,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """As :func:`score_all`, with what is unlike good images; data with too few of them are said and do without."""
    model.eval()
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    try:
        novelty = fit_novelty(model, data, args.image_size, precision=precision, normalization=normalization, **options)
    except DefectError as error:
        print(f"no answers with novelty: {error}")
        return
    model.novelty = novelty.to(precision.device)
    score_all(args, model, data, content, folder, "_novelty", precision, normalization)
    model.novelty = None


def score_all(
    args: argparse.Namespace,
    model: nn.Module,
    data: Manifest,
    content: dict[str, Any],
    folder: Path,
    suffix: str,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """Keep what ``model`` makes of every validation and test image; the file of the test images comes last."""
    for name in (f"val{suffix}", f"test{suffix}"):
        rows = data.select(name.split("_")[0])
        loader = make_loader(DefectDataset(rows, args.image_size), args.batch_size, num_workers=args.num_workers)
        results = ImageResults(2, content["thresholds"]["mask"])
        evaluate(model, loader, results, precision=precision, normalization=normalization, description=name)
        columns = {column: rows.columns[column] for column in ("image", "group", "source")}
        unfinished = folder / f"{name}.tmp.npz"  # what is called test.npz is a finished run
        np.savez_compressed(unfinished, **columns, images=results.images, regions=results.regions)
        unfinished.replace(folder / f"{name}.npz")


def train_stage(
    args: argparse.Namespace,
    variant: Variant,
    number: int,
    epochs: int,
    model: nn.Module,
    data: Manifest,
    save_dir: Path,
    seed: int,
    precision: Precision,
    normalization: Normalization,
) -> None:
    """One stage of ``variant``; one that was interrupted starts again."""
    stage = variant.stages[number]
    shutil.rmtree(save_dir, ignore_errors=True)
    save_dir.mkdir(parents=True)
    model.freeze_backbone(stage.frozen)
    criterion = MultiTaskLoss(stage.alpha, stage.beta, stage.weights == "uncertainty").to(precision.device)
    backbone_lr_scale, layer_decay = backbone_rates("vit" in args.backbone, args.weights != "none")
    options = TrainingOptions(
        save_dir,
        epochs,
        args.batch_size,
        args.num_workers,
        lr=stage.lr,
        backbone_lr_scale=stage.backbone_lr_scale or backbone_lr_scale,
        weight_decay=0.05,
        grad_clip=1.0,
        seed=seed,
        layer_decay=layer_decay,
    )
    fit(
        model,
        criterion,
        DefectDataset(data.select("train"), args.image_size, augment=True, paste_defects=variant.paste_defects),
        DefectDataset(data.select("val"), args.image_size),
        options,
        precision=precision,
        normalization=normalization,
        description={
            "config": {},
            "backbone": args.backbone,
            "classes": data.classes,
            "mask_classes": data.mask_classes,
            "image_size": args.image_size,
            "normalization": vars(normalization),
            "thresholds": {"classification": 0.5, "mask": 0.5},
        },
        weight_scheduler=DynamicWeightScheduler() if stage.weights == "dynamic" else None,
    )


def main() -> int:
    """Run what is missing and print the tables."""
    args = build_parser().parse_args()
    if not 0 <= args.masks <= 100:
        raise DefectError(f"--masks is {args.masks}; expected 0 to 100, in percent")
    if wrong := [fold for fold in args.only_folds or () if not 0 <= fold < args.folds]:
        raise DefectError(f"--only_folds {wrong[0]}: expected 0 to {args.folds - 1}, as --folds is {args.folds}")
    stages = max(len(VARIANTS[name].stages) for name in args.variants)
    if args.epochs < stages:
        raise DefectError(f"--epochs is {args.epochs}; expected at least {stages}, one for each stage")
    if args.flips and args.novelty:
        raise DefectError("--flips and --novelty: each has its own tables; give one")
    if not args.table_only:
        check_peers(args.variants)
    manifest = open_data(args)
    bad_types = sorted(set(manifest.columns["source"][manifest.labels > 0].tolist()))
    if args.without and args.without not in bad_types:
        raise DefectError(
            f"--without {args.without}: not a type of defect here; expected one of {', '.join(bad_types)}"
        )
    strata, groups = strata_and_groups(args, manifest)
    folds = deal_folds(strata, groups, args.folds, seed=0)
    setting = f"{args.backbone}_{Path(args.weights).stem}_{args.image_size}px_{args.epochs}epochs"
    setting += f"_{args.masks}masks" if args.masks < 100 else ""
    setting += f"_without_{args.without}" if args.without else ""
    root = args.work_dir / f"{Path(args.data).name}_{'random' if args.random_split else 'grouped'}" / setting
    keep_setting(root, args)
    numbers = args.only_folds or range(args.folds)
    for seed in args.seeds:
        for k in numbers:
            data_folder = root / f"fold{k}"
            if not (data_folder / "manifest.csv").is_file():
                write_fold(manifest, data_folder, strata, groups, folds, k)
            for name in args.variants:
                folder = root / name / f"fold{k}_seed{seed}"
                if args.table_only or (folder / "test.npz").is_file():
                    continue
                print(f"{name}, fold {k}, seed {seed}", flush=True)
                data = keep_masks(read_manifest(data_folder), args.masks, seed)
                if args.without:
                    data = leave_out(data, args.without)
                run(args, VARIANTS[name], data, folder, seed)
    how = "_flips" if args.flips else "_novelty" if args.novelty else ""
    silent = [name for name in args.variants if args.testimony and not VARIANTS[name].mask_testifies]
    print_tables(root, args.variants, args.seeds, numbers, split=args.split, how=how, silent=silent)
    return 0


if __name__ == "__main__":
    run_script(main)
