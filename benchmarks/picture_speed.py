"""How fast the four-panel pictures are drawn, beside a plain matplotlib figure of the same four panels.

python benchmarks/picture_speed.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.inference.regions import find_regions  # noqa: E402
from dinov3.inference.visualize import draw_panels  # noqa: E402

CLASSES = {2: ["normal", "defect"], 6: ["normal", "scratch", "pit", "inclusion", "stain", "edge"]}
SIZES = ((200, 200), (512, 512), (1200, 1600), (6000, 8000))
DISPLAY = 640  # pixels; the longest side of the copy of the image that inspection draws


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="each draws every picture both ways; the median counts")
    return parser


def make_example(height: int, width: int, classes: int) -> tuple[np.ndarray, SimpleNamespace]:
    """A grey surface with one defect of each class, and a prediction of it."""
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), np.uint8)
    for value in range(1, classes):
        x, y = rng.integers(width // 8, width * 7 // 8), rng.integers(height // 8, height * 7 // 8)
        cv2.ellipse(mask, (int(x), int(y)), (width // 16, height // 40), 25 * value, 0, 360, value, -1)
    scale = min(DISPLAY / max(height, width), 1)
    shape = round(height * scale), round(width * scale)
    image = rng.normal(150, 12, (*shape, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    names = CLASSES[classes]
    mask, regions = find_regions((mask > 0).astype(np.float32), mask - (mask > 0), names[1:], 0.5)
    prediction = SimpleNamespace(
        verdict="reject",
        predicted_class=names[1],
        probabilities=dict(zip(names, [0.07, *[0.93 / (classes - 1)] * (classes - 1)], strict=True)),
        defect_probability=0.93,
        threshold=0.41,
        review_threshold=0.12,
        reason="defect probability 0.93 >= 0.41; rule max_length crack: 182.4 > 150.0",
        mask=mask,
        attention=rng.random((32, 32), np.float32) / 512,
        regions=regions,
        mask_area_fraction=float((mask > 0).mean()),
        novel=None,
    )
    return image, prediction


def draw_with_matplotlib(image: np.ndarray, prediction: SimpleNamespace) -> np.ndarray:
    """The shortest figure with the same four panels and as many pixels."""
    figure = Figure(figsize=(16.8, 4.5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    axes[0].imshow(image)
    axes[1].imshow(image)
    small = cv2.resize(prediction.mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    axes[1].imshow(np.ma.masked_equal(small, 0), alpha=0.4)
    axes[1].contour(small > 0, levels=[0.5])
    axes[2].imshow(image)
    axes[2].imshow(cv2.resize(prediction.attention, image.shape[1::-1]), alpha=0.5, cmap="inferno")
    axes[3].barh(list(prediction.probabilities), list(prediction.probabilities.values()))
    axes[3].axvline(prediction.threshold)
    for axis, title in zip(axes, ("Image", "Mask", "Attention", prediction.verdict), strict=True):
        axis.set_title(title)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def seconds(call: Callable[[np.ndarray, SimpleNamespace], np.ndarray], *arguments: object) -> float:
    """CPU time of one call: what one core needs, however many others work beside it."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    args = build_parser().parse_args(argv)
    cv2.setNumThreads(1)
    libraries = f"OpenCV {cv2.__version__}, matplotlib {matplotlib.__version__}"
    print(f"{platform.machine()} CPU, one core, {libraries}, CPU time, median of {args.rounds}")
    for height, width in SIZES:
        for classes in CLASSES:
            example = make_example(height, width, classes)
            ways = (draw_panels, draw_with_matplotlib)
            for draw in ways:
                draw(*example)  # fonts are loaded once
            times = [[seconds(draw, *example) for draw in ways] for _ in range(args.rounds)]
            ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(b / a for a, b in times)
            print(
                f"  {width}x{height}, {classes} classes: {1 / ours:6.1f} pictures/s, "
                f"matplotlib {1 / theirs:5.1f}, {ratio:.0f} times as fast"
            )
    return 0


if __name__ == "__main__":
    run_script(main)
