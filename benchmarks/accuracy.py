"""How accurate the model is on parts it has never seen, beside its variants and other networks.

python benchmarks/accuracy.py --data tiles --variants guided dual_branch unet fpn --seeds 0 1 2

Cross-validation: the parts are assigned to folds, each image is tested once per seed, and a fifth of the parts of the
other folds is validation, which alone chooses thresholds; each run is tested at its last epoch. Finished runs are kept
as small files in --runs and not run again: stop at any time and give the same command, or add a variant, a seed or a
fold. ``--all`` prints the tables of everything that is there; ``--factory`` what it means at the
line, ``--curves`` how many masks and defective parts it takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

BEGUN = time.monotonic()  # importing takes a while, too
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from accuracy_curves import print_curves  # noqa: E402
from accuracy_data import open_data, strata_and_groups  # noqa: E402
from accuracy_factory import print_factory  # noqa: E402
from accuracy_folds import assign_folds, write_fold  # noqa: E402
from accuracy_jobs import Place, run_share, run_side_by_side  # noqa: E402
from accuracy_power import print_power  # noqa: E402
from accuracy_runs import read_run  # noqa: E402
from accuracy_table import Table, print_tables  # noqa: E402
from accuracy_variants import VARIANTS  # noqa: E402

from dinov3.defect_cli import positive_float, positive_int  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.defect_size import size_text  # noqa: E402
from dinov3.defect_size_flag import StoreSize  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    text = "tiles ($MAGNETIC_TILE_DIR); solar_cells, steel_strip, circuit_boards (in $DEFECT_DATA_DIR); demo; or a "
    text += "dataset folder with groups"
    add("--data", default="tiles", help=text)
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
    add(
        "--random_split",
        action="store_true",
        help="assign images, not parts, to folds: shows what near-duplicates in training add",
    )
    add("--masks", type=int, default=100, help="percent of each type's defect images that train with their mask")
    add("--defects", type=int, default=100, help="percent of each type's defective parts that train")
    add("--without", metavar="TYPE", help="train and validate without this type of defect, e.g. MT_Break")
    add("--backbone", default="efficientnet_lite0")
    add("--weights", default="default", help="default, none, or a local file")
    add("--image_size", action=StoreSize, default=224, help="one number for a square, or height and width")
    add("--batch_size", type=int, default=16)
    add("--epochs", type=int, default=8, help="of all stages together, the same for every variant")
    add("--num_workers", type=int, default=1)
    add("--mixed_precision", default="auto", choices=("auto", "bf16", "fp16", "off"))
    add("--device", default="auto")
    add("--work_dir", type=Path, default=Path("runs/accuracy"), help="where datasets and weights are for a while")
    add("--runs", type=Path, default=ROOT / "benchmarks/runs", help="where the files of finished runs are kept")
    add("--flips", action="store_true", help="answers averaged over mirror images, too, and tables of them")
    add("--novelty", action="store_true", help="answers in which what is unlike good training images counts, likewise")
    add(
        "--score_fusion",
        action="store_true",
        help="tables in which the scores of all variants are fused as the default's are",
    )
    add("--split", choices=("test", "val"), default="test", help="of the tables; choose by val, report test")
    add("--table_only", action="store_true", help="print the tables of what has been run; needs no data")
    add("--all", action="store_true", help="print the tables of everything in --runs")
    add("--factory", action="store_true", help="what is rejected and reviewed at promised miss rates, of --runs")
    add("--curves", action="store_true", help="what masks and defective parts are worth, of --runs")
    add("--pictures", type=Path, metavar="DIR", help="draw what --factory and --curves print in this folder, too")
    add("--check", action="store_true", help="say in the tables which runs were done with today's code")
    add("--power", action="store_true", help="print the smallest difference that one, two, ... runs a fold can show")
    add("--jobs", type=positive_int, default=1, help="processes that train side by side, each one run at a time")
    add(
        "--minutes",
        type=positive_float,
        help="begin no run that would end later; with --jobs, end those that still run",
    )
    add("--json", type=Path, help="write the tables to this file, too")
    add("--share", type=int, help=argparse.SUPPRESS)  # which of the --jobs this process is
    return parser


def check_peers(names: Sequence[str]) -> None:
    """
    Raises:
        DefectError: one is a network of a package that is missing; better known before the first one has trained.
    """
    peers = [name for name in names if VARIANTS[name].peer]
    if peers and importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise DefectError(f"--variants {' '.join(peers)}: these need one package more: pip install -e '.[peers]'")


def setting_of(args: argparse.Namespace) -> dict[str, object]:
    """What a run's file says of how it came about, beside variant, fold and seed."""
    weights = Path(args.weights)
    names = ("backbone", "epochs", "masks", "without", "folds", "batch_size", "mixed_precision")
    return {
        "data": Path(args.data).name,
        "split": "random" if args.random_split else "grouped",
        "weights": weights.name if weights.is_file() else args.weights,
        **{name: getattr(args, name) for name in names},
        **({"defects": args.defects} if args.defects < 100 else {}),
        "image_size": args.image_size if isinstance(args.image_size, int) else list(args.image_size),  # as JSON has it
    }


def print_all(args: argparse.Namespace) -> None:
    """The tables of each setting in ``--runs``."""
    for folder in sorted({path.parents[1] for path in args.runs.glob("*/*/*/fold*_seed*.json")}):
        there = sorted(path.parent.name for path in folder.glob("*/fold*_seed*.json"))
        names = [name for name in VARIANTS if name in there]  # in their order: the default first
        settings = [read_run(path)["setting"] for path in folder.glob("*/fold*_seed*.json")]
        seeds, folds = (sorted({setting[name] for setting in settings}) for name in ("seed", "fold"))
        for how in ("", "_flips", "_novelty"):
            if not how or next(folder.glob(f"*/*{how}.json"), None):
                print(f"\n## {folder.parent.name}, {folder.name}{how.replace('_', ', ')}")
                print_tables(folder, names, seeds, folds, split=args.split, how=how, check=args.check)
        if args.power:
            print_power(folder, names, seeds, folds, split=args.split)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables."""
    args = build_parser().parse_args(argv)
    if not 0 <= args.masks <= 100:
        raise DefectError(f"--masks is {args.masks}; expected 0 to 100, in percent")
    if not 1 <= args.defects <= 100:
        raise DefectError(f"--defects is {args.defects}; expected 1 to 100, in percent")
    if wrong := [fold for fold in args.only_folds or () if not 0 <= fold < args.folds]:
        raise DefectError(f"--only_folds {wrong[0]}: expected 0 to {args.folds - 1}, as --folds is {args.folds}")
    stages = max(len(VARIANTS[name].stages) for name in args.variants)
    if args.epochs < stages:
        raise DefectError(f"--epochs is {args.epochs}; expected at least {stages}, one for each stage")
    if args.flips and args.novelty:
        raise DefectError("--flips and --novelty: each has its own tables; give one")
    if args.all or args.factory or args.curves:
        if args.all:
            print_all(args)
        if args.factory:
            print_factory(args.runs, args.pictures)
        if args.curves:
            print_curves(args.runs, args.split, args.pictures)
        return 0
    if not args.table_only:
        check_peers(args.variants)
    name = f"{args.backbone}_{Path(args.weights).stem}_{size_text(args.image_size, 'x')}px_{args.epochs}epochs"
    name += f"_{args.masks}masks" if args.masks < 100 else ""
    name += f"_{args.defects}defects" if args.defects < 100 else ""
    name += f"_without_{args.without}" if args.without else ""
    data = f"{Path(args.data).name}_{'random' if args.random_split else 'grouped'}"
    place = Place(args.work_dir / data / name, args.runs / data / name, setting_of(args))
    numbers = args.only_folds or range(args.folds)
    cells = [(name, fold, seed) for seed in args.seeds for fold in numbers for name in args.variants]
    status = 0
    if args.share is not None:
        return run_share(args, place, cells)
    if not args.table_only:
        prepare(args, place.data, numbers)
        if args.minutes is not None:  # what is left of them
            args.minutes = max(args.minutes - (time.monotonic() - BEGUN) / 60, 0.01)
        status = run_side_by_side(args) if args.jobs > 1 else run_share(args, place, cells)
    how = "_flips" if args.flips else "_novelty" if args.novelty else ""
    fused = [name for name in args.variants if args.score_fusion and not VARIANTS[name].fuses_scores]

    def keep(tables: dict[str, Table]) -> None:
        if args.json is not None:
            args.json.write_text(json.dumps(tables, indent=2), encoding="utf-8")

    options = {"split": args.split, "how": how, "fused": fused, "check": args.check, "keep": keep}
    print_tables(place.runs, args.variants, args.seeds, numbers, **options)
    if args.power:
        print_power(place.runs, args.variants, args.seeds, numbers, split=args.split)
    return status


def prepare(args: argparse.Namespace, root: Path, numbers: Iterable[int]) -> None:
    """Open the data, and write a dataset folder for each fold."""
    manifest = open_data(args)
    bad_types = sorted(set(manifest.columns["source"][manifest.labels > 0].tolist()))
    if args.without and args.without not in bad_types:
        raise DefectError(
            f"--without {args.without}: not a type of defect here; expected one of {', '.join(bad_types)}"
        )
    strata, groups = strata_and_groups(args, manifest)
    folds = assign_folds(strata, groups, args.folds, seed=0)
    for fold in numbers:
        if not (root / f"fold{fold}/manifest.csv").is_file():
            write_fold(manifest, root / f"fold{fold}", strata, groups, folds, fold)


if __name__ == "__main__":
    run_script(main)
