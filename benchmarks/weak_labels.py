"""What masks for some of the defect images are worth: trains with 0, 10, 30 and 100% of them, and measures on test.

python benchmarks/weak_labels.py --data_root data/tiles --work_dir runs/weak_labels

Each share is trained twice: 'kept', where defect images without a mask train the class alone, and 'skipped', where
they are missing. Validation and test stay whole. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dinov3.data.defect_manifest import COLUMNS, Manifest, read_manifest  # noqa: E402

METRICS = ("image_ap", "image_accuracy", "pixel_iou", "mean_iou_defect")


def masked_rows(manifest: Manifest, percent: int, seed: int) -> set[int]:
    """The training rows of defect images that keep their mask: ``percent`` of each folder, at least one, and the more
    the percentage, the same and others."""
    columns = manifest.columns
    by_source: dict[str, list[int]] = {}
    for row in range(len(manifest)):
        if columns["split"][row] == "train" and manifest.labels[row] > 0 and columns["mask"][row]:
            by_source.setdefault(str(columns["source"][row]), []).append(row)
    keep: set[int] = set()
    for rows in by_source.values():
        rows.sort(key=lambda row: hashlib.sha256(f"{seed}/{columns['image'][row]}".encode()).digest())
        keep.update(rows[: max(round(len(rows) * percent / 100), 1) if percent else 0])
    return keep


def write_variant(manifest: Manifest, folder: Path, percent: int, skip: bool, seed: int) -> None:
    """A dataset folder with links to the images and masks of ``manifest`` and a table of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks", "dataset.json"):
        if not (folder / name).exists():
            (folder / name).symlink_to((manifest.root / name).resolve())
    keep = masked_rows(manifest, percent, seed)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in range(len(manifest)):
            values = {name: str(manifest.columns[name][row]) for name in COLUMNS}
            if values["split"] == "train" and manifest.labels[row] > 0 and row not in keep:
                if skip:
                    continue
                values["mask"] = ""
            writer.writerow(values)


def run_variant(args: argparse.Namespace, manifest: Manifest, percent: int, skip: bool, seed: int) -> dict:
    """Train and measure one variant, or read what an earlier run of it left."""
    folder = args.work_dir / f"{percent}_{'skipped' if skip else 'kept'}_{seed}"
    result = folder / "test.json"
    if not result.is_file():
        write_variant(manifest, folder / "data", percent, skip, seed)
        train = [sys.executable, "examples/train_defect_model.py", "--data_root", folder / "data", "--resume"]
        train += ["--save_dir", folder / "run", "--backbone", args.backbone, "--weights", args.weights]
        train += ["--image_size", args.image_size, "--epochs", args.epochs, "--seed", seed, "--use_dynamic_weights"]
        train += ["--num_workers", args.num_workers, "--lr", args.lr]
        test = [sys.executable, "examples/evaluate_defect_model.py", "--data_root", folder / "data"]
        # One threshold for all: what a variant's own choice adds is not what masks add.
        test += ["--checkpoint", folder / "run/best_accuracy.pth", "--output", result, "--mask_threshold", 0.5]
        for command in (train, test):
            subprocess.run([str(part) for part in command], cwd=ROOT, check=True)
    return json.loads(result.read_text(encoding="utf-8"))


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data_root",
        type=Path,
        required=True,
        help="dataset folder with masks for all defect images, and a test split",
    )
    add("--work_dir", type=Path, default=Path("runs/weak_labels"), help="where the runs go")
    add("--percent", type=int, nargs="+", default=[0, 10, 30, 100], help="shares of defect images that keep their mask")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="of training, and of which masks are kept")
    add("--backbone", default="efficientnet_lite0")
    add("--weights", default="default")
    add("--image_size", type=int, default=224)
    add("--epochs", type=int, default=5)
    add("--lr", type=float, default=1e-3)
    add("--num_workers", type=int, default=1)
    return parser


def main() -> None:
    """Run all variants and print a table."""
    args = build_parser().parse_args()
    args.work_dir, args.data_root = args.work_dir.resolve(), args.data_root.resolve()
    manifest = read_manifest(args.data_root)
    total = len(masked_rows(manifest, 100, 0))
    variants = [(p, skip) for p in args.percent for skip in ((False, True) if 0 < p < 100 else (False,))]
    results = {v: [] for v in variants}
    for seed in args.seeds:
        for variant in variants:
            results[variant].append(run_variant(args, manifest, *variant, seed))
    print(
        f"\n{args.data_root.name}, {args.backbone}, {args.image_size} px, {args.epochs} epochs, {len(args.seeds)} seeds"
    )
    print("| masks | unmasked defect images | " + " | ".join(METRICS) + " |")
    print("|---|---|" + "---|" * len(METRICS))
    for (percent, skip), runs in results.items():
        kept = len(masked_rows(manifest, percent, args.seeds[0]))
        rest = "-" if percent == 100 else "skipped" if skip else "class alone"
        cells = []
        for name in METRICS:
            values = [run[name] for run in runs]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {percent}% ({kept} of {total}) | {rest} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
