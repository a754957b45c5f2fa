"""What an archive's inspection by Ray costs beside the inspection script, on one machine.

python benchmarks/archive.py --checkpoint export/best_accuracy.onnx --image_dir data/solar_cells/images

Both run as whole commands on the same cores, with few images and with many, in turns; images per second are the
difference in images by the difference in time, so that starting (Python, the model, Ray) does not count; what that
takes is told apart. The script writes masks besides, and neither draws pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dinov3.data.defect_files import list_images  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402

LEAST_RATIO = 0.9  # the aim
NAMES = ("script", "archive")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help=".onnx file from export_defect_model.py, or .pth")
    add("--image_dir", type=Path, required=True)
    add("--images", type=int, default=640, help="many")
    add("--few", type=int, default=64)
    add("--images_per_file", type=int, default=64)
    add("--rounds", type=int, default=5)
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the aim is missed."""
    args = build_parser().parse_args(argv)
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0], "rates": {name: [] for name in NAMES}}
    starts: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        link_images(args.image_dir, folder / "few", args.few)
        link_images(args.image_dir, folder / "many", args.images)
        for number in range(args.rounds):
            for name in NAMES[:: -1 if number % 2 else 1]:
                few, many = (run(args, name, folder, size, number) for size in ("few", "many"))
                rate = (args.images - args.few) / (many - few)
                figures["rates"][name].append(rate)
                starts[name].append(few - args.few / rate)
            figures["different"] = count_different(folder, number)
    ratios = [b / a for a, b in zip(*(figures["rates"][name] for name in NAMES), strict=True)]
    figures |= {"ratios": ratios, "starts": {name: statistics.median(starts[name]) for name in NAMES}}
    print_figures(args, figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return int(statistics.median(ratios) < LEAST_RATIO or figures["different"] > 0)


def link_images(source: Path, folder: Path, count: int) -> None:
    """A folder with so many links to the images of ``source``, each as often as needed."""
    found = list_images(source.resolve())
    folder.mkdir()
    for number in range(count):
        path = found[number % len(found)]
        (folder / f"{number:06}{path.suffix}").symlink_to(path)


def run(args: argparse.Namespace, name: str, folder: Path, size: str, number: int) -> float:
    """Seconds of a whole command."""
    script = {"script": "inference_defect_model.py", "archive": "inspect_archive.py"}[name]
    command = [sys.executable, ROOT / "examples" / script, "--checkpoint", args.checkpoint]
    command += ["--image_dir", folder / size, "--output_dir", folder / f"{name}-{size}-{number}"]
    command += ["--no_report", "--no_visualize"] if name == "script" else ["--images_per_file", args.images_per_file]
    begun = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise DefectError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return seconds


def count_different(folder: Path, number: int) -> int:
    """Images whose verdicts are not the same."""
    import pyarrow.dataset

    with (folder / f"script-many-{number}/predictions.csv").open(newline="", encoding="utf-8-sig") as file:
        expected = sorted((row["image"], row["verdict"]) for row in csv.DictReader(file))
    table = pyarrow.dataset.dataset(folder / f"archive-many-{number}/results").to_table(columns=["image", "verdict"])
    found = sorted((row["image"], row["verdict"]) for row in table.to_pylist())
    if len(found) != len(expected):
        raise DefectError(f"{len(found)} results of {len(expected)} images")
    return sum(a != b for a, b in zip(expected, found, strict=True))


def print_figures(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """In Markdown."""
    script, archive = (statistics.median(figures["rates"][name]) for name in NAMES)
    ratios, starts = figures["ratios"], figures["starts"]
    print(f"load average at the start: {figures['load_average']:.1f}\n")
    print("| an archive on one machine | measured | aim |\n|---|---|---|")
    print(f"| inspection script, images per second | {script:.1f} | |")
    print(f"| archive by Ray | {archive:.1f} | |")
    ends = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"| ratio, median of {args.rounds} | {statistics.median(ratios):.2f} ({ends}) | {LEAST_RATIO} |")
    print(f"| to start: script, archive | {starts['script']:.0f}, {starts['archive']:.0f} s | |")
    print(f"| verdicts that differ, of {args.images} | {figures['different']} | 0 |")


if __name__ == "__main__":
    run_script(main)
