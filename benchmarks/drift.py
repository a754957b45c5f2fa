"""The test for drift: its false alarms over streams in which nothing changes, and what it takes to see real changes.

MAGNETIC_TILE_DIR=/path/to/magnetic_tile DEFECT_DATA_DIR=/path/to/sets python benchmarks/drift.py

The simulation draws streams of independent values with many ties. The real sets are judged by the distance to good
training images in the features of EfficientNet-Lite0 with ImageNet weights: for each round the parts of a set are
assigned anew to training, reference, stream and what comes after the change; each part gives one image.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dinov3.data.defect_dataset import as_tensor  # noqa: E402
from dinov3.data.defect_images import read_for_size  # noqa: E402
from dinov3.data.defect_resize import resize_image  # noqa: E402
from dinov3.defect_errors import run_script  # noqa: E402
from dinov3.defect_station.drift import DriftMonitor  # noqa: E402
from dinov3.defect_station.martingale import ConformalMartingale  # noqa: E402
from dinov3.defect_station.observations import Observation  # noqa: E402
from dinov3.inference.parts import PartFlags  # noqa: E402
from dinov3.models.defect_backbone import build_backbone  # noqa: E402
from dinov3.models.defect_novelty import Novelty  # noqa: E402


@dataclass(frozen=True)
class Shift:
    """A real change: images before it and after it, and where the table of parts lies."""

    name: str
    before: list[Path]
    after: list[Path]
    groups: Path


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--streams", type=int, default=1000, help="of the simulation")
    add("--length", type=int, default=1000, help="of each")
    add("--false_alarm", type=float, default=0.05)
    add("--rounds", type=int, default=50, help="of each real change")
    add("--image_size", type=int, default=160)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print two tables."""
    args = build_parser().parse_args(argv)
    alarms = sum(simulate(args, seed) for seed in range(args.streams))
    share, error = alarms / args.streams, math.sqrt(args.false_alarm * (1 - args.false_alarm) / args.streams)
    print(f"{args.streams} streams of {args.length} values without a change: {alarms} alarms, {share:.1%}")
    print(f"promised: at most {args.false_alarm:.1%} (standard error of {args.streams} streams {error:.1%})\n")
    print("| change | rounds | false alarms before it | seen after it | images until then: median (largest) |")
    print("|---|---|---|---|---|")
    for shift in shifts():
        print(measure(args, shift))
    return 0


def simulate(args: argparse.Namespace, seed: int) -> bool:
    """Whether a stream without a change raises an alarm."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.beta(0.1, 0.5, args.length + 100), 4)
    test = ConformalMartingale(values[:100], seed)
    for value in values[100:]:
        test.update(value)
    return test.highest >= math.log(1 / args.false_alarm)


def shifts() -> Iterable[Shift]:
    """Those whose data are here."""
    sets = Path(os.environ.get("DEFECT_DATA_DIR", "."))
    tiles = Path(os.environ.get("MAGNETIC_TILE_DIR", sets / "magnetic_tile"))
    good = sorted((tiles / "MT_Free/Imgs").glob("*.jpg"))
    exposures = [[path for path in good if path.name[:4] in names] for names in (("exp1", "exp2"), ("exp5", "exp6"))]
    yield Shift("magnetic tiles: exposures 1 and 2, then 5 and 6", *exposures, tiles / "groups.csv")
    cells = sorted((sets / "solar_cells/normal").iterdir())
    other = [path for path in cells if path.name.startswith("FSEC")]
    yield Shift(
        "solar cells: then another maker's", sorted({*cells} - {*other}), other, sets / "solar_cells/groups.csv"
    )
    steel = sets / "steel_strip/defect"
    for first, second in (("inclusion", "scratches"), ("scratches", "patches")):
        both = [sorted((steel / kind).iterdir()) for kind in (first, second)]
        yield Shift(f"steel strip: {first}, then {second}", *both, sets / "steel_strip/groups.csv")


def measure(args: argparse.Namespace, shift: Shift) -> str:
    """A row of the table."""
    part_of = PartFlags(part_csv=shift.groups).part_of()
    before, after = (embed(by_part(paths, part_of), args.image_size) for paths in (shift.before, shift.after))
    false, waits = 0, []
    for seed in range(args.rounds):
        order = np.random.default_rng(seed).permutation(list(before))
        train, reference, same, _ = np.array_split(order, 4)  # of the last, only images after the change are shown
        novelty = Novelty.fit([before[name] for name in train], [before[name] for name in reference])
        known = {*train, *reference, *same}
        changed = [name for name in np.random.default_rng(seed).permutation(list(after)) if name not in known]
        monitor = DriftMonitor(look(novelty, before, reference), args.false_alarm, seed)
        for image in look(novelty, before, same):
            monitor.update(image)
        false += bool(monitor.alarms)
        if not monitor.alarms:
            for number, image in enumerate(look(novelty, after, changed), start=1):
                if monitor.update(image):
                    waits.append(number)
                    break
    told = f"{statistics.median(waits):.0f} ({max(waits)})" if waits else "-"
    return f"| {shift.name} | {args.rounds} | {false} | {len(waits)} of {args.rounds - false} | {told} |"


def by_part(paths: list[Path], part_of: Callable[[str], str]) -> dict[str, Path]:
    """The first image of each part."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(part_of(path.as_posix()), path)
    return found


@torch.inference_mode()
def embed(images: dict[str, Path], size: int) -> dict[str, Tensor]:
    """The backbone's map (1, C, h, w) of each image, by part."""
    backbone = build_backbone("efficientnet_lite0", "default").eval()
    found = {}
    for part, path in images.items():
        pixels = resize_image(read_for_size(path, size)[0], (size, size))
        image = as_tensor(pixels).permute(2, 0, 1)[None].float().div(127.5).sub(1)
        found[part] = backbone.get_intermediate_layers(image, n=[3], reshape=True)[0]
    return found


def look(novelty: Novelty, maps: dict[str, Tensor], parts: Iterable[str]) -> list[Observation]:
    """What the test is shown of each part."""
    return [Observation(str(part), float(novelty.distances(maps[part]).max())) for part in parts]


if __name__ == "__main__":
    run_script(main)
