"""Tell whether the images of a run are still like those of a time when all was well.

python examples/check_defect_drift.py --reference results_first_week --results results_today
python examples/check_defect_drift.py --reference results_first_week --store results.sqlite --since 2026-01-31

Every image is tested as it came, by its defect probability and, of a model calibrated with --novelty, by how unlike
good parts it is. As long as nothing has changed, an alarm comes with a chance of --false_alarm at most, over any number
of images. Give the parts of images if several show one: the promise is for parts that are independent of each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinov3.defect_cli import OpenFraction, flag, make_parser, parse
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_station.drift import DriftMonitor, alarm_text, told
from dinov3.defect_station.observations import Observation, of_score, one_per_part, read_observations
from dinov3.inference.claim import RUN, load_run
from dinov3.inference.parts import PartFlags


@dataclass(frozen=True, kw_only=True)
class DriftConfig(PartFlags):
    """The flags of ``check_defect_drift.py``."""

    reference: Path = flag(help="results folder of a time when all was well, or the evaluation's per_image.csv")
    results: tuple[Path, ...] = flag((), "results folders of what came since, in order", either="source")
    store: str | None = flag(None, "or a results database: an SQLite file, or postgresql://...", either="source")
    model: str | None = flag(None, "of the database, images of this model (its fingerprint; default: the reference's)")
    since: str | None = flag(None, "of the database, images from this time on, such as 2026-01-31 (UTC)")
    false_alarm: OpenFraction = flag(0.01, "chance of an alarm although nothing has changed")
    fail_on_drift: bool = flag(False, "exit with status 4 on an alarm")


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    return make_parser(
        DriftConfig, __doc__, epilog="exit status: 0 done, 4 an alarm with --fail_on_drift, 1 any problem"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Test, and say what came out."""
    parser = build_parser()
    config = parse(DriftConfig, parser, argv)
    if config.store is None and (config.model or config.since):
        parser.error("--model and --since need --store")
    part_of = config.part_of()
    monitor = DriftMonitor(list(one_per_part(read_observations(config.reference), part_of)), config.false_alarm)
    for source, images in sources(config):
        for image in one_per_part(images, part_of, largest=part_of is not None):
            for alarm in monitor.update(image):
                print(f"{alarm_text(alarm)} in {source}")
    state = monitor.state()
    lines = told(state, "the reference")
    print("\n".join(line for line in lines if not line.startswith("changed")))
    return 4 if state["alarm"] and config.fail_on_drift else 0


def sources(config: DriftConfig) -> Iterator[tuple[object, Iterator[Observation] | list[Observation]]]:
    """The name of each place, and the images in it."""
    for folder in config.results:
        yield folder, read_observations(folder)
    if config.store is not None:
        yield config.store, stored(config)


def stored(config: DriftConfig) -> Iterator[Observation]:
    """The images of the database."""
    from dinov3.defect_station.store import Store  # needs the extra 'station'

    run = load_run(config.reference / RUN) if config.reference.is_dir() else None
    model = config.model or (run or {}).get("--checkpoint")
    if model is None:
        raise DefectError(f"--reference {config.reference}: does not say which model it is of; give --model")
    with Store.open(config.store, must_exist=True) as store:
        found, image = (of_score(row, model) for row in store.scores(since=config.since)), None
        for image in filter(None, found):
            yield image
        if image is None:
            since = f" since {config.since}" if config.since else ""
            raise DefectError(
                f"--store {store.place}: no image inspected by the model {model[:12]}...{since}, so nothing can be "
                "tested; give the --model of its images, or an earlier --since"
            )


def console() -> None:
    """The command ``defect-drift``."""
    run_script(main)
