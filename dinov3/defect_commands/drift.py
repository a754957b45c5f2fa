"""Tell whether the images of a run are still like those of a time when all was well.

python examples/check_defect_drift.py --reference results_first_week --results results_today

Every image is tested as it came, by its defect probability and, of a model calibrated with --novelty, by how unlike
good parts it is. As long as nothing has changed, an alarm comes with a chance of --false_alarm at most, over any number
of images. Give the parts of images if several show one: the promise is for parts that are independent of each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinov3.defect_cli import OpenFraction, flag, make_parser, parse
from dinov3.defect_errors import run_script
from dinov3.defect_station.drift import DriftMonitor, one_per_part, read_observations
from dinov3.inference.parts import PartFlags

NAMES = {"score": "defect probabilities", "novelty": "distance to good parts"}


@dataclass(frozen=True, kw_only=True)
class DriftConfig(PartFlags):
    """The flags of ``check_defect_drift.py``."""

    reference: Path = flag(help="results folder of a time when all was well, or the evaluation's per_image.csv")
    results: tuple[Path, ...] = flag(help="results folders of what came since, in order")
    false_alarm: OpenFraction = flag(0.01, "chance of an alarm although nothing has changed")
    fail_on_drift: bool = flag(False, "exit with status 4 on an alarm")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(
        DriftConfig, __doc__, epilog="exit status: 0 done, 4 an alarm with --fail_on_drift, 1 any problem"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Test, and say what came out."""
    config = parse(DriftConfig, build_parser(), argv)
    part_of = config.part_of() or (lambda name: name)
    reference = list(one_per_part(read_observations(config.reference), part_of))
    monitor = DriftMonitor(reference, config.false_alarm)
    for folder in config.results:
        for image in one_per_part(read_observations(folder), part_of):
            for alarm in monitor.update(image):
                print(f"changed: {NAMES[alarm.what]}, seen after {alarm.after} images, at {image.name} in {folder}")
    tested = " and ".join(NAMES[kind] for kind in monitor.tests)
    print(f"{monitor.images} images against {len(reference)} of the reference, by their {tested}")
    if not monitor.alarms:
        print(f"no change was found (chance of a false alarm: at most {config.false_alarm:g})")
        return 0
    print("what speaks most for a change: " + ", ".join(name for name, _ in monitor.moved_most(5)))
    return 4 if config.fail_on_drift else 0


def console() -> None:
    """The command ``defect-drift``."""
    run_script(main)
