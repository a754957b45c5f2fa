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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.models.defect_backbone import build_backbone  # noqa: E402
from dinov3.models.defect_classifier import AttentionGuidedDefectClassifier  # noqa: E402
from dinov3.models.defect_device import resolve_device, resolve_precision  # noqa: E402
from dinov3.models.defect_novelty import Novelty, novelty_level  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", default="dinov3_vitb16")
    add("--image_size", type=int, default=512)
    add("--batch_size", type=int, default=1)
    add("--rounds", type=int, default=9, help="each times backbone and all models once; the median counts")
    add("--device", default="auto")
    return parser


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    args = build_parser().parse_args(argv)
    device = resolve_device(args.device)
    precision = resolve_precision("auto", device)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    backbone = build_backbone(args.backbone, "none").to(device, memory_format=torch.channels_last).eval()
    calls = {"backbone": lambda: backbone.forward_features(images)}
    heads = {"multiscale": {}, "no fusion": {"score_fusion": False}, "novelty": {}, "light": {"decoder": "light"}}
    for name, options in heads.items():
        model = AttentionGuidedDefectClassifier(backbone, backbone.embed_dim, **options)
        if name == "novelty":
            model.novelty = Novelty(novelty_level(model.encode(images)[2]).shape[1])
        model = model.to(device, memory_format=torch.channels_last).eval()
        calls[name] = lambda model=model: model(images)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with precision.autocast():
        for call in calls.values():
            call()  # warm-up
        for _ in range(args.rounds):
            for name, call in calls.items():
                times[name].append(seconds(call, device))
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{args.backbone}, {args.image_size} px, batch {args.batch_size}, {machine}, torch {torch.__version__}, ",
        end="",
    )
    print(f"{torch.get_num_threads()} threads, {precision.dtype or torch.float32}")
    for name, values in times.items():
        # Ratios within a round, as the machine's speed drifts between rounds.
        added = statistics.median(v / b - 1 for v, b in zip(values, times["backbone"], strict=True))
        print(f"  {name:<12} {statistics.median(values) * 1000:8.1f} ms   {added:+.1%} over the backbone")
    return 0


if __name__ == "__main__":
    run_script(main)
