"""The inspection script from image files to result files against the bare backbone, and the latency of single images.

python benchmarks/inference_speed.py --checkpoint checkpoints/stage3_uncertainty/best_accuracy.pth --image_dir images
python benchmarks/inference_speed.py --backbone dinov3_vits16 --image_size 518 --image_dir images
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from chip import count_flop, matrix_rate, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from inference_defect_model import build_parser as script_parser  # noqa: E402

from dinov3.data.defect_files import list_images  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.defect_interrupts import StopSignals  # noqa: E402
from dinov3.defect_size import size_text  # noqa: E402
from dinov3.inference.inspection import Inspection  # noqa: E402
from dinov3.inference.outputs import OutputWriter  # noqa: E402
from dinov3.inference.predictor import DefectPredictor  # noqa: E402
from dinov3.models.defect_backbone import build_backbone  # noqa: E402
from dinov3.models.defect_checkpoint import load_checkpoint  # noqa: E402
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier  # noqa: E402
from dinov3.models.defect_engines import open_engine  # noqa: E402
from dinov3.models.defect_engines.torch_engine import TorchEngine  # noqa: E402
from dinov3.models.defect_facts import ModelFacts  # noqa: E402
from dinov3.models.defect_fuse_bn import fuse_batch_norms  # noqa: E402

AIM_CUDA, AIM_CPU = 0.90, 0.85


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path)
    model.add_argument("--backbone", help="with random weights; its masks stay empty")
    add("--image_size", type=int, default=518, help="for --backbone")
    add("--image_dir", type=Path, required=True, help="taken again from the start if it has fewer than --images")
    add("--images", type=int, default=256, help="per round and pipeline")
    add("--batch_size", type=int, default=16)
    add("--num_workers", type=int, default=2)
    add("--rounds", type=int, default=5, help="each times everything once; medians count")
    add("--latency_images", type=int, default=200)
    add("--compile", action="store_true", help="the bare backbone is compiled, too")
    add("--mixed_precision", default="auto")
    add("--device", default="auto")
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    args = build_parser().parse_args(argv)
    predictor = open_model(args)
    cv2.setNumThreads(1)
    paths = list(islice(cycle(list_images(args.image_dir)), args.images))
    with tempfile.TemporaryDirectory() as folder:
        calls = forward_passes(args, predictor)
        for pictures in (False, True):
            calls["script, " + ("with pictures" if pictures else "no pictures")] = script(
                args, predictor, paths, Path(folder), pictures
            )
        times: dict[str, list[float]] = {name: [] for name in calls}
        work: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            call()  # warm-up
        for _ in range(args.rounds):
            for name, call in calls.items():
                start, busy = time.perf_counter(), cpu_seconds()
                call()
                times[name].append(time.perf_counter() - start)
                work[name].append(cpu_seconds() - busy)
    figures = {"rows": figures_of(args, predictor, times, work, calls)}
    print_table(args, predictor, figures["rows"])
    write_json(args.json, figures)
    figures["latency_ms"] = measure_latency(predictor, paths[: args.latency_images])
    write_json(args.json, figures)
    return 0


def open_model(args: argparse.Namespace) -> DefectPredictor:
    """From the checkpoint, or a new one."""
    options = {"device": args.device, "precision": args.mixed_precision, "compile": args.compile}
    if args.checkpoint:
        return DefectPredictor(open_engine(args.checkpoint, **options))
    backbone = build_backbone(args.backbone, "none")
    content = {
        "backbone": args.backbone,
        "classes": ["normal", "defect"],
        "mask_classes": ["defect"],
        "image_size": args.image_size,
        "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "thresholds": {"classification": 0.5, "mask": 0.5},
    }
    model = AttentionGuidedDefectClassifier(backbone, backbone.embed_dim).eval()
    fuse_batch_norms(model, args.image_size)
    return DefectPredictor(TorchEngine(model, ModelFacts.of_checkpoint(content), **options))


def forward_passes(args: argparse.Namespace, predictor: DefectPredictor) -> dict[str, Callable[[], None]]:
    """Backbone alone, and all of the network, on as many images as the script gets; nothing is read or written."""
    device = predictor.engine.device
    images = torch.randn(args.batch_size, 3, *predictor.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    # As it is built: the predictor's own has its BatchNorms fused.
    name = args.backbone or load_checkpoint(args.checkpoint)["backbone"]
    backbone = build_backbone(name, "none").to(device, memory_format=torch.channels_last).eval()
    bare = torch.compile(backbone.forward_features) if args.compile else backbone.forward_features

    def repeat(call: Callable[[torch.Tensor], object]) -> Callable[[], None]:
        @torch.inference_mode()
        def run() -> None:
            with predictor.engine.precision.autocast():
                for start in range(0, args.images, args.batch_size):
                    call(images[: args.images - start])
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    return {"backbone": repeat(bare), "network": repeat(lambda x: predictor.engine.model(x, return_attention=True))}


def script(
    args: argparse.Namespace, predictor: DefectPredictor, paths: list[Path], folder: Path, pictures: bool
) -> Callable[[], None]:
    """What the script does once its model is loaded: from files to files, its processes started and ended."""
    flags = ["--checkpoint", "-", "--image_dir", str(args.image_dir), "--batch_size", str(args.batch_size)]
    flags = script_parser().parse_args([*flags, "--num_workers", str(args.num_workers)])

    def run() -> None:
        with StopSignals() as signals, OutputWriter(folder / str(pictures), predictor.classes, pictures) as writer:
            Inspection(flags, args.image_dir, predictor, writer, signals).run(paths)

    return run


def cpu_seconds() -> float:
    """Of this process and those it has ended: on a busy machine they tell more than the clock does."""
    return sum(os.times()[:4])


def figures_of(
    args: argparse.Namespace,
    predictor: DefectPredictor,
    times: dict[str, list[float]],
    work: dict[str, list[float]],
    calls: dict[str, Callable[[], None]],
) -> dict[str, dict[str, float]]:
    """Images per second, the ratios to the backbone's and the network's, and CPU time per image; of the forward passes
    their operations, too, and the share of the chip's rate that they reach."""
    figures, limit = {}, matrix_rate(predictor.engine.precision)
    for name, values in times.items():
        rate = args.images / statistics.median(values)
        found = {"images_per_second": rate, "cpu_ms": statistics.median(work[name]) / args.images * 1000}
        for base in ("backbone", "network"):
            # Ratios within a round, as the machine's speed drifts between rounds.
            found[f"of_{base}"] = statistics.median(b / v for v, b in zip(values, times[base], strict=True))
        if name in ("backbone", "network"):
            found["flop_per_image"] = count_flop(calls[name]) / args.images
            found["of_matrix_rate"] = found["flop_per_image"] * rate / limit
        figures[name] = found
    return figures


def print_table(args: argparse.Namespace, predictor: DefectPredictor, figures: dict[str, dict[str, float]]) -> None:
    """What was measured, and in which setting."""
    cuda = predictor.engine.device.type == "cuda"
    machine = torch.cuda.get_device_name(predictor.engine.device) if cuda else f"{platform.machine()} CPU"
    print(
        f"{args.checkpoint or args.backbone}, {size_text(predictor.image_size)} px, "
        f"batch {args.batch_size}, {machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{args.num_workers} loading threads, "
        f"{predictor.engine.precision.dtype or torch.float32}{', compiled' if args.compile else ''}"
    )
    for name, found in figures.items():
        print(
            f"  {name:<22} {found['images_per_second']:9.1f} images/s   {found['of_backbone']:.2f} of the backbone   "
            f"{found['of_network']:.2f} of the network   {found['cpu_ms']:7.1f} ms of CPU time per image",
            end="",
        )
        print(f"   {found['of_matrix_rate']:.0%} of the chip's matrix rate" if "of_matrix_rate" in found else "")
    print(f"  aim without pictures: {AIM_CUDA if cuda else AIM_CPU:.2f} of the backbone")


def measure_latency(predictor: DefectPredictor, paths: list[Path]) -> list[float]:
    """Print median and 99th percentile of one image at a time, from the path to the prediction; return them, in ms."""
    for path in paths[:5]:
        predictor(path)
    times = []
    for path in paths:
        start = time.perf_counter()
        predictor(path)
        times.append((time.perf_counter() - start) * 1000)
    median, high = np.percentile(times, [50, 99]).tolist()
    print(f"  one image at a time: median {median:.1f} ms, 99th percentile {high:.1f} ms ({len(times)} images)")
    return [median, high]


if __name__ == "__main__":
    run_script(main)
