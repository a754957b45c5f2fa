"""What decoder, classifier, score fusion and novelty add to the backbone's forward time, measured side by side.

python benchmarks/head_cost.py --backbone dinov3_vitb16 --image_size 512
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from chip import count_flop, matrix_rate, synchronize, write_json
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.models.defect_backbone import build_backbone  # noqa: E402
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier  # noqa: E402
from dinov3.models.defect_device import Precision, PrecisionName, resolve_device, resolve_precision  # noqa: E402
from dinov3.models.defect_novelty import Novelty, novelty_level  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", default="dinov3_vitb16")
    add("--image_size", type=int, default=512)
    add("--batch_size", type=int, nargs="+", default=[1], help="one table each")
    add("--rounds", type=int, default=9, help="each times backbone and all models once; the median counts")
    add("--mixed_precision", default="auto", choices=get_args(PrecisionName))
    add("--compile", action="store_true", help="compile the backbone and all models")
    add("--device", default="auto")
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def build_modules(args: argparse.Namespace, device: torch.device) -> dict[str, nn.Module]:
    """The bare backbone, and models on it."""
    backbone = build_backbone(args.backbone, "none").to(device, memory_format=torch.channels_last).eval()
    modules: dict[str, nn.Module] = {"backbone": Bare(backbone)}
    heads = {
        "full": {},
        "no fusion": {"score_fusion": False},
        "novelty": {},
        "multiscale": {"decoder": "multiscale"},
        "light": {"decoder": "light"},
    }
    images = torch.zeros(1, 3, args.image_size, args.image_size, device=device)
    for name, options in heads.items():
        model = AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, **options).to(device).eval()
        if name == "novelty":
            with torch.no_grad():
                model.novelty = Novelty(novelty_level(model.encode(images)[2]).shape[1])
        modules[name] = model.to(device, memory_format=torch.channels_last).eval()
    return modules


class Bare(nn.Module):
    """The backbone as a module whose call computes its features."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.backbone.forward_features(images)


@torch.inference_mode()
def measure(
    args: argparse.Namespace, modules: dict[str, nn.Module], batch_size: int, precision: Precision, limit: float
) -> dict[str, dict[str, float]]:
    """Print what each module takes for a batch, and return it; ``limit`` is the chip's, in operations a second."""
    device = precision.device
    images = torch.randn(batch_size, 3, args.image_size, args.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in modules}
    with precision.autocast():
        flop = {name: count_flop(lambda module=module: module(images)) for name, module in modules.items()}
        if args.compile:
            modules = {name: torch.compile(module) for name, module in modules.items()}
        for module in modules.values():
            for _ in range(2):
                module(images)  # warm-up
        for _ in range(args.rounds):
            for name, module in modules.items():
                times[name].append(seconds(lambda module=module: module(images), device))
    print(f"batch {batch_size}")
    figures = {}
    for name, values in times.items():
        # Ratios within a round, as the machine's speed drifts between rounds.
        added = statistics.median(v / b - 1 for v, b in zip(values, times["backbone"], strict=True))
        median = statistics.median(values)
        found = {"milliseconds": median * 1000, "added": added, "images_per_second": batch_size / median}
        found |= {"flop_per_image": flop[name] / batch_size, "of_matrix_rate": flop[name] / median / limit}
        figures[name] = found
        print(f"  {name:<12} {median * 1000:8.1f} ms   {added:+.1%} over the backbone   ", end="")
        print(f"{found['of_matrix_rate']:.0%} of the chip's {limit / 1e12:.3g} TFLOP/s")
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table for each batch size."""
    args = build_parser().parse_args(argv)
    device = resolve_device(args.device)
    precision = resolve_precision(args.mixed_precision, device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{args.backbone}, {args.image_size} px, {machine}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {precision.dtype or torch.float32}{', compiled' * args.compile}")
    limit, figures = matrix_rate(precision), {}
    modules = build_modules(args, device)
    for batch_size in args.batch_size:
        figures[batch_size] = measure(args, modules, batch_size, precision, limit)
        write_json(args.json, {"batches": figures, "compiled": args.compile, "matrix_rate": limit})
    return 0


if __name__ == "__main__":
    run_script(main)
