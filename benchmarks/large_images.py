"""What tiles find on 20-megapixel images that resizing to 512 pixels loses: same backbone, same number of steps.

Makes photographs of trays of 96 parts, 5472 x 3648 pixels, where a defective tray has one to three pits of about 20
pixels; trains both ways; inspects trays not seen in training; compares the masks at full resolution.

python benchmarks/large_images.py --output_dir data/large
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dinov3.data.defect_manifest import Manifest, read_manifest  # noqa: E402
from dinov3.data.defect_masks import read_mask  # noqa: E402
from dinov3.data.defect_prepare.writer import DatasetWriter  # noqa: E402
from dinov3.data.defect_synthesis.render import synthesize  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.defect_evaluation.metrics import DefectMetrics  # noqa: E402

PART = 456  # pixels a side of a part
TRAYS = {"train": (8, 12), "val": (2, 3), "test": (8, 12)}  # rows and columns; nothing is chosen by validation here
SURFACES = ("brushed_metal", "cast", "plastic")
SPLITS = {"train": 16, "val": 2, "test": 10}  # trays, half of them with defects
DEFECT_PIXELS = (12, 30)  # longer side of a defect


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("data/large"), help="images (kept for the next run), runs, results")
    add("--backbone", default="efficientnet_lite0")
    add("--steps", type=int, default=64, help="training steps of each way; a multiple of 16")
    add("--batch_size", type=int, default=8)
    add("--image_size", type=int, default=512, help="what whole images are resized to")
    add("--tile_size", type=int, default=256, help="tiles, not resized")
    add("--lr", default="2e-3")
    add("--device", default="auto")
    return parser


def defective_part(rng: np.random.Generator, surface: str) -> tuple[np.ndarray, np.ndarray]:
    """A part (PART, PART, 3) with one pit of the wanted size, and its mask."""
    while True:
        drawn = synthesize(rng, size=PART, surface=surface, defect="pit")
        count, _, stats, _ = cv2.connectedComponentsWithStats(drawn.mask)
        low, high = DEFECT_PIXELS
        if count == 2 and low <= stats[1, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max() <= high:
            return drawn.image, drawn.mask


def make_tray(rng: np.random.Generator, rows: int, columns: int, defects: int) -> tuple[np.ndarray, np.ndarray]:
    """A tray of parts of one surface, each drawn part lying in it up to four times, turned; and its mask."""
    surface = str(rng.choice(SURFACES))
    parts = [synthesize(rng, size=PART, surface=surface).image for _ in range(-(-rows * columns // 4))]
    image = np.empty((rows * PART, columns * PART, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    faulty = rng.choice(rows * columns, defects, replace=False)
    for place, number in enumerate(rng.permutation(rows * columns)):
        part, marks = np.rot90(parts[number // 4], number % 4), 0
        if place in faulty:
            part, marks = defective_part(rng, surface)
        row, column = divmod(place, columns)
        window = np.s_[row * PART : (row + 1) * PART, column * PART : (column + 1) * PART]
        image[window], mask[window] = part, marks
    return image, mask


def make_dataset(folder: Path) -> Manifest:
    """The trays as JPEG files of quality 92, made once."""
    if folder.exists():
        return read_manifest(folder)
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer, tempfile.TemporaryDirectory() as temporary:
        names = [f"{split}/{i:02d}.jpg" for split, count in SPLITS.items() for i in range(count)]
        for name in tqdm(names, desc="make trays", unit="image"):
            split, number = Path(name).parent.name, int(Path(name).stem)
            image, mask = make_tray(rng, *TRAYS[split], defects=number % 2 * (1 + number // 2 % 3))
            file = Path(temporary, "tray.jpg")
            Image.fromarray(image).save(file, quality=92)
            label = "defect" if number % 2 else "normal"
            masked = mask if number % 2 else None
            writer.add(file, name, masked, label=label, split=split, group=name, source="synthetic")
        command = "benchmarks/large_images.py"
        return writer.finish(classes=["normal", "defect"], mask_classes=["defect"], seed=0, command=command)


def run(script: str, *arguments: object) -> tuple[float, float]:
    """Run a script of examples/: wall time in minutes and peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ROOT / "examples" / script), *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise DefectError(f"{script}: failed, see its message above")
    scale = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    return (time.perf_counter() - start) / 60, usage.ru_maxrss / scale


def compare(rows: Manifest, results: Path) -> dict[str, float]:
    """Metrics of predictions on ``rows`` at full resolution; and how many single defects the masks touch."""
    with (results / "predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        probability = {row["image"]: float(row["defect_probability"]) for row in csv.DictReader(file)}
    metrics = DefectMetrics(len(rows.classes))
    found, total, false = 0, 0, 0
    for image, name, label in zip(rows.columns["image"], rows.columns["mask"], rows.labels, strict=True):
        image = image.removeprefix("images/test/")
        predicted = read_mask(results / "masks" / f"{image}.png") > 0
        truth = read_mask(rows.root / name) if name else np.zeros(predicted.shape, np.uint8)
        p = probability[image]
        values = (torch.tensor([1 - p, p]), torch.from_numpy(predicted).float(), torch.tensor(label))
        values += (torch.tensor(truth), torch.tensor(True))
        metrics.update(*(value[None] for value in values))
        count, areas = cv2.connectedComponents(truth)
        total += count - 1
        found += len(np.unique(areas[predicted & (areas > 0)]))
        count, areas = cv2.connectedComponents(predicted.astype(np.uint8))
        false += count - 1 - len(np.unique(areas[predicted & (truth > 0)]))
    result = metrics.compute()
    return result | {"found": found, "defects": total, "false": false / len(rows)}


def main(argv: Sequence[str] | None = None) -> int:
    """Make, train, inspect, compare, print."""
    args = build_parser().parse_args(argv)
    manifest = make_dataset(args.output_dir / "trays")
    per_epoch = SPLITS["train"] // args.batch_size
    ways = {
        f"resized to {args.image_size}": ("--image_size", args.image_size, "--epochs", args.steps // per_epoch),
        f"tiles of {args.tile_size}": (
            *("--image_size", args.tile_size, "--tile_size", args.tile_size),
            *("--tiles_per_image", 8, "--epochs", args.steps // (8 * per_epoch)),
        ),
    }
    common = ("--backbone", args.backbone, "--batch_size", args.batch_size, "--device", args.device)
    common += ("--num_workers", 0, "--lr", args.lr, "--data_root", manifest.root)
    lines = []
    for name, flags in ways.items():
        with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
            training = run("train_defect_model.py", *common, *flags, "--save_dir", folder)
            checkpoint, results = Path(folder, "last.pth"), Path(folder, "results")
            options = ("--num_workers", 0, "--no_visualize", "--device", args.device, "--output_dir", results)
            inspection = run(
                "inference_defect_model.py",
                *("--checkpoint", checkpoint, "--image_dir", manifest.root / "images/test", *options),
            )
            m = compare(manifest.select("test"), results)
        lines.append(
            f"| {name} | {m['image_ap']:.3f} | {m['image_recall']:.3f} | {m['image_precision']:.3f} "
            f"| {m['found']} of {m['defects']} | {m['false']:.1f} | {m['pixel_iou']:.3f} | {m['mean_iou_defect']:.3f} "
            f"| {training[0]:.1f} min, {training[1]:.1f} GiB "
            f"| {inspection[0] * 60 / SPLITS['test']:.1f} s, {inspection[1]:.1f} GiB |"
        )
    print(f"{args.backbone}, {args.steps} steps of {args.batch_size}, torch {torch.__version__}")
    print("| | image AP | recall | precision | defects found | false areas per image | pixel IoU ", end="")
    print("| IoU per defect image | training | inspection per image |\n|" + "---|" * 10)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    run_script(main)
