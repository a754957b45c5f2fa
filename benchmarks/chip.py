"""What this chip can do at most: the rate of large matrix products, by number format; and which machine this is.

python benchmarks/chip.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_check_packages import missing_packages
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.models.defect_device import Precision, resolve_device, resolve_precision  # noqa: E402

Shape = Sequence[int]


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--side", type=int, help="of the square matrices (default: 8192 on CUDA, else 1024)")
    add("--device", default="auto")
    add("--json", type=Path, help="write the figures to this file, too")
    return parser


def matrix_rate(precision: Precision, side: int | None = None) -> float:
    """Floating-point operations per second of a product of two square matrices of random numbers, in the number format
    that ``precision`` computes in: the median of ten, after three to warm up."""
    device = precision.device
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device, dtype=precision.dtype or torch.float32) for _ in range(2))
    seconds = []
    for number in range(13):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        if number >= 3:
            seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds)


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def count_flop(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in ``call``, backward passes in it included; a
    multiplication and an addition count as two. What is compiled runs uncompiled, as it would not show them else."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward})
    with torch.compiler.set_stance("force_eager"), counter:
        call()
    return counter.get_total_flops()


def convolution_backward(grad: Shape, images: Shape, kernel: Shape, *rest: Any, **more: Any) -> int:
    """Operations of a convolution's backward pass, from the shapes of its tensors: those of the forward pass, once for
    the gradient of each input that is asked for. torch's own formula ignores groups."""
    is_transposed, wanted = rest[4], rest[7]
    places = math.prod((images if is_transposed else grad)[2:])
    return 2 * grad[0] * places * math.prod(kernel) * sum(wanted[:2])


def driver() -> str:
    """Version of the NVIDIA driver; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return lines[0].strip() if lines else ""


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a figure's reader needs to know of the machine."""
    facts = {
        "device": device.type,
        "driver": driver(),
        "python": platform.python_version(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda,
        **{name: importlib.metadata.version(name) for name in ("torch", "torchvision", "timm")},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1)}
    return facts


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures of a benchmark to ``path``, if there is one."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if packages are missing."""
    args = build_parser().parse_args(argv)
    device = resolve_device(args.device)
    facts, missing = describe_machine(device), missing_packages()
    figures = {"machine": facts | {"missing": missing}, "matrix_rate": {}}
    write_json(args.json, figures)  # which machine it is, is worth keeping whatever comes
    for name in ("bf16", "fp16", "tf32", "off") if device.type == "cuda" else ("bf16", "off"):
        rate = matrix_rate(resolve_precision(name, device), args.side)
        figures["matrix_rate"][name] = rate
        print(f"  {name if name != 'off' else 'float32'}: {rate / 1e12:.3g} TFLOP/s")
    write_json(args.json, figures)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if missing:
        print(f"missing or too old: {', '.join(missing)}")
    return int(bool(missing))


if __name__ == "__main__":
    run_script(main)
