"""Engines side by side on the same images: speed, paired, and with it how far their answers agree.

python benchmarks/engines.py --data_root data/solar_cells --threads 1 \
    --models torch=best.pth onnx=best.onnx onnx=best.int8.onnx openvino=best.bf16.onnx

The first model is the reference. Each round runs every model once, every second round in reverse; what counts is the
median over the rounds of each ratio to the reference in the same round. 'network' is from resized images to
probabilities; 'inspection' from image files to verdicts and regions, in one process and without result files; 'script'
is what inference_defect_model.py does, with result files but without pictures and report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def use_cores(argv: Sequence[str]) -> None:
    """Keep to as many cores as ``--threads`` says: libraries look at that as they are imported."""
    count = next((int(b) for a, b in zip(argv, argv[1:], strict=False) if a == "--threads"), 0)
    if count and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    use_cores(sys.argv)

import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from dinov3.data.defect_manifest import Manifest, read_manifest  # noqa: E402
from dinov3.defect_cli import parse  # noqa: E402
from dinov3.defect_commands.inspect import build_parser as inspect_parser  # noqa: E402
from dinov3.defect_deployment.gate import inspection_pixels, read_crops  # noqa: E402
from dinov3.defect_deployment.scoring import evenly, mask_iou, own_verdicts, score  # noqa: E402
from dinov3.defect_errors import DefectError, run_script  # noqa: E402
from dinov3.defect_interrupts import StopSignals  # noqa: E402
from dinov3.inference.config import InspectConfig  # noqa: E402
from dinov3.inference.inspection import Inspection  # noqa: E402
from dinov3.inference.outputs import OutputWriter  # noqa: E402
from dinov3.inference.predictor import DefectPredictor  # noqa: E402
from dinov3.models.defect_engines.onnx_engine import usable_cores  # noqa: E402

COLD = """
import sys
from dinov3.inference import DefectPredictor
prediction = DefectPredictor.from_checkpoint(sys.argv[1], engine=sys.argv[2])(sys.argv[3])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # getrusage counts the parent, too
print(int(peak.split()[1]) / 1024)
"""


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", required=True, metavar="ENGINE=FILE", help="engines: torch, onnx, openvino")
    add("--data_root", type=Path, required=True, help="dataset folder, whose val split is used")
    add("--images", type=int, default=96, help="evenly from all, per round and model")
    add("--batch_size", type=int, default=16)
    add("--threads", type=int, help="cores to keep to (default: all)")
    add("--rounds", type=int, default=5)
    add("--num_workers", type=int, default=2, help="reading threads of the script")
    add("--kinds", nargs="+", default=["network", "inspection", "script"], choices=["network", "inspection", "script"])
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print two tables."""
    args = build_parser().parse_args(argv)
    cv2.setNumThreads(args.threads or usable_cores())
    rows = read_manifest(args.data_root).select("val")
    predictors = {name: open_model(name, args.threads) for name in args.models}
    paths = [rows.root / name for name in evenly(rows.columns["image"].tolist(), args.images)]
    figures = {name: {} for name in predictors}
    with tempfile.TemporaryDirectory() as folder:
        for kind, calls in jobs(args, predictors, paths, Path(folder)).items():
            for name, found in measure(calls, args.rounds, len(paths)).items():
                figures[name][kind] = found
    agreements = agree(predictors, rows, args.batch_size)
    print_tables(args, figures, agreements, {name: cold_start(name, paths[0]) for name in predictors})
    if args.json:
        args.json.write_text(json.dumps({"speed": figures, "agreement": agreements}, indent=2))
    return 0


def open_model(name: str, threads: int | None) -> DefectPredictor:
    """From ``ENGINE=FILE``."""
    engine, _, path = name.partition("=")
    if not path:
        raise DefectError(f"--models {name}: expected ENGINE=FILE, such as onnx=best.onnx")
    return DefectPredictor.from_checkpoint(path, engine=engine, device="cpu", threads=threads)


Call = Callable[[], object]


def jobs(
    args: argparse.Namespace, predictors: dict[str, DefectPredictor], paths: list[Path], folder: Path
) -> dict[str, dict[str, Call]]:
    """For each kind of work, what each model is to do."""
    parts = [paths[i : i + args.batch_size] for i in range(0, len(paths), args.batch_size)]

    def network(name: str, predictor: DefectPredictor) -> Call:
        facts = predictor.engine.facts
        crops = [[inspection_pixels(read_crops(path, facts)[0], facts) for path in part] for part in parts]
        batches = [np.stack(part) for part in crops]
        return lambda: [predictor.engine.run(batch) for batch in batches]

    def inspection(name: str, predictor: DefectPredictor) -> Call:
        return lambda: [predictor(part) for part in parts]

    def script(name: str, predictor: DefectPredictor) -> Call:
        config = parse(InspectConfig, inspect_parser(), [*flags, "--num_workers", str(args.num_workers)])
        place = folder / str(list(predictors).index(name))

        def run() -> None:
            with StopSignals() as signals, OutputWriter(place, predictor.classes, False) as writer:
                Inspection(config, args.data_root, predictor, writer, signals).run(paths)

        return run

    flags = ["--checkpoint", "-", "--image_dir", str(args.data_root), "--batch_size", str(args.batch_size)]
    kinds: dict[str, Callable[[str, DefectPredictor], Call]] = {
        "network": network, "inspection": inspection, "script": script
    }  # fmt: skip
    return {kind: {name: kinds[kind](name, one) for name, one in predictors.items()} for kind in args.kinds}


def measure(calls: dict[str, Call], rounds: int, images: int) -> dict[str, dict[str, float]]:
    """Images per second, and the ratio to the first, of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # warm-up
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            begun = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - begun)
    base = seconds[next(iter(calls))]
    found = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(base, values, strict=True)]
        found[name] = {"images_per_second": images / statistics.median(values), "ratio": statistics.median(ratios)}
        found[name] |= {"lowest": min(ratios), "highest": max(ratios)}
    return found


def agree(predictors: dict[str, DefectPredictor], rows: Manifest, batch_size: int) -> dict[str, dict[str, float]]:
    """Of the val split: image AP, verdicts other than the reference's, each at its own limits, and mask IoU with it."""
    found, first = {}, None
    for name, predictor in predictors.items():
        scored = score(predictor.engine, rows, batch_size)
        verdicts = own_verdicts(scored, predictor.engine.facts)
        first = first or (scored, verdicts)
        flips = sum(a != b for a, b in zip(first[1], verdicts, strict=True))
        found[name] = {"images": len(verdicts), "image_ap": scored.average_precision}
        found[name] |= {"flips": flips, "mask_iou": mask_iou(first[0], scored)}
    return found


def cold_start(name: str, image: Path) -> tuple[float, float]:
    """Seconds from the start of Python to the first answer, and MB of memory at most; the median of three."""
    engine, _, path = name.partition("=")
    command = [sys.executable, "-c", COLD, path, engine, str(image)]
    times, sizes = [], []
    for _ in range(3):
        begun = time.perf_counter()
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
        times.append(time.perf_counter() - begun)
        sizes.append(float(out[0]))
    return statistics.median(times), statistics.median(sizes)


def print_tables(
    args: argparse.Namespace,
    figures: dict[str, dict[str, dict[str, float]]],
    agreements: dict[str, dict[str, float]],
    cold: dict[str, tuple[float, float]],
) -> None:
    """In Markdown."""
    print(f"{args.images} images, batch {args.batch_size}, {args.threads or 'all'} thread(s), {args.rounds} rounds\n")
    print("| model | " + " | ".join(f"{kind}: images/s | ratio" for kind in next(iter(figures.values()))) + " |")
    print("|---|" + "---|---|" * len(next(iter(figures.values()))))
    for name, kinds in figures.items():
        cells = [
            f"{v['images_per_second']:.1f} | {v['ratio']:.2f} ({v['lowest']:.2f} to {v['highest']:.2f})"
            for v in kinds.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| model | image AP | flips | mask IoU with the first | first answer after | memory |")
    print("|---|---|---|---|---|---|")
    for name, v in agreements.items():
        seconds, size = cold[name]
        print(
            f"| {name} | {v['image_ap']:.4f} | {v['flips']} of {v['images']} | {v['mask_iou']:.4f} | {seconds:.2f} s | "
            f"{size:.0f} MB |"
        )


if __name__ == "__main__":
    run_script(main)
