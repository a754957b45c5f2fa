"""How long finding near-duplicates takes: reading images, measured on some, and comparing them, on made-up codes.

python benchmarks/similar_groups.py --images data/my_photographs
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.data.defect_files import list_images  # noqa: E402
from dinov3.data.defect_prepare.near_duplicates import describe, pair_codes  # noqa: E402
from dinov3.data.defect_prepare.splits import join  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402

PHOTOGRAPHS = 5  # of each part


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int, default=100_000, help="codes to compare")
    add("--images", type=Path, help="a folder to read from; without it made-up JPEG and PNG files are read")
    return parser


def make_codes(count: int, seed: int = 0) -> np.ndarray:
    """Codes as of parts photographed five times: phases of their own, and 0.6 radians of noise, which gives scores
    near 0.7, those of the magnetic tiles."""
    rng = np.random.default_rng(seed)
    phases = describe([])[0].shape[1] // 2
    codes = np.empty((count, 2 * phases), np.int8)
    for start in range(0, count, PHOTOGRAPHS):
        own = rng.uniform(0, 2 * np.pi, phases) + rng.normal(0, 0.6, (min(PHOTOGRAPHS, count - start), phases))
        codes[start : start + PHOTOGRAPHS] = np.rint(127 * np.concatenate([np.cos(own), np.sin(own)], 1))
    return codes


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    wall, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - busy


def report_reading(title: str, paths: Sequence[Path], count: int) -> None:
    """Print images a second, and what that means for ``count``."""
    describe(paths[:16])  # warm-up
    wall, busy = seconds(lambda: describe(paths))
    print(
        f"  {title}: {len(paths) / wall:.0f} images/s, {1000 * busy / len(paths):.1f} ms of processor time each; ",
        end="",
    )
    print(f"{count:,} like these take about {count * wall / len(paths) / 60:.1f} min")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = build_parser().parse_args(argv)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("reading (from a warm disk cache):")
    if args.images:
        report_reading(str(args.images), list_images(args.images)[:2000], args.count)
    else:
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            for side, suffix, number in ((512, "jpg", 400), (2048, "jpg", 60), (1024, "png", 100)):
                paths = [Path(folder, f"{side}_{i}.{suffix}") for i in range(number)]
                for path in paths:
                    small = rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8)
                    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path)
                report_reading(f"{side}x{side} {suffix}", paths, args.count)
    codes = make_codes(args.count)
    names = [f"part/{i}.jpg" for i in np.random.default_rng(1).permutation(args.count)]  # the order tells nothing
    pairs: dict[tuple[int, int], float] = {}
    wall, busy = seconds(lambda: pairs.update(pair_codes(codes, names)))
    parts = np.arange(args.count) // PHOTOGRAPHS
    groups = np.array(join(args.count, pairs))
    wrong = sum(parts[a] != parts[b] for a, b in pairs)
    whole = int((groups == parts * PHOTOGRAPHS).sum())
    print(f"comparing {args.count:,} codes: {wall:.0f} s, {busy:.0f} s of processor time")
    print(
        f"  {len(pairs):,} pairs, {wrong} wrong; {whole / args.count:.4%} of images in one group with all of their part"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
